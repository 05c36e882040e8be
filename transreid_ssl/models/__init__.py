"""Networks, their heads, and their weights."""

import transreid_ssl.models.registry  # noqa: F401  (makes the names known to timm)
from transreid_ssl.models.heads import BNNeck, DINOHead
from transreid_ssl.models.positions import resample_positions
from transreid_ssl.models.spec import ARCHITECTURES, BackboneSpec
from transreid_ssl.models.statistics import HALF, IMAGENET, LUPERSON, Statistics, normalise
from transreid_ssl.models.vit import (
    ReIDViT,
    build_backbone,
    class_attention,
    from_spec,
    sync_batch_norm,
)

__all__ = [
    "ARCHITECTURES",
    "HALF",
    "IMAGENET",
    "LUPERSON",
    "BNNeck",
    "BackboneSpec",
    "DINOHead",
    "ReIDViT",
    "Statistics",
    "build_backbone",
    "class_attention",
    "from_spec",
    "normalise",
    "resample_positions",
    "sync_batch_norm",
]
