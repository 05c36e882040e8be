"""Networks, their heads, and their weights."""

import transreid_ssl.models.registry  # noqa: F401  (makes the names known to timm)
from transreid_ssl.models.architectures import ARCHITECTURES
from transreid_ssl.models.blocks import PackedBlock
from transreid_ssl.models.build import Backbone, ViewBackbone, build_backbone, from_spec
from transreid_ssl.models.calibration import Calibration
from transreid_ssl.models.card import Figure, Publication, licence_of
from transreid_ssl.models.heads import BNNeck, CosineClassifier, DINOHead, UnitFeatures
from transreid_ssl.models.hub import find_weights, weights_digest
from transreid_ssl.models.initialise import draw_xavier, fix_sincos_positions
from transreid_ssl.models.jpm import JPMViT, split_branches
from transreid_ssl.models.lineage import Ancestry, ancestry, began_with, with_lineage
from transreid_ssl.models.mgn import MGN, MGNParts
from transreid_ssl.models.norms import BlockNorm, block_norms, group_norms
from transreid_ssl.models.part_tokens import PartTokenViT
from transreid_ssl.models.positions import resample_positions
from transreid_ssl.models.publish import push_to_hub, save_pretrained
from transreid_ssl.models.readout import Readout
from transreid_ssl.models.resnet import ReIDResNet
from transreid_ssl.models.spec import BackboneSpec
from transreid_ssl.models.statistics import (
    HALF,
    IMAGENET,
    LUPERSON,
    LUPERSON_MGN,
    STATISTICS,
    Statistics,
    normalise,
)
from transreid_ssl.models.striped import Striped
from transreid_ssl.models.timm_build import is_timm
from transreid_ssl.models.timm_network import TimmNetwork
from transreid_ssl.models.training_state import TrainingState, read_training_state
from transreid_ssl.models.vit import ReIDViT, class_attention
from transreid_ssl.models.weights import (
    LoadReport,
    load_backbone,
    load_weights,
    network_checksum,
    read_spec,
    save_backbone,
)

__all__ = [
    "ARCHITECTURES",
    "HALF",
    "IMAGENET",
    "LUPERSON",
    "LUPERSON_MGN",
    "MGN",
    "STATISTICS",
    "Ancestry",
    "BNNeck",
    "Backbone",
    "BackboneSpec",
    "BlockNorm",
    "Calibration",
    "CosineClassifier",
    "DINOHead",
    "Figure",
    "JPMViT",
    "LoadReport",
    "MGNParts",
    "PackedBlock",
    "PartTokenViT",
    "Publication",
    "ReIDResNet",
    "ReIDViT",
    "Readout",
    "Statistics",
    "Striped",
    "TimmNetwork",
    "TrainingState",
    "UnitFeatures",
    "ViewBackbone",
    "ancestry",
    "began_with",
    "block_norms",
    "build_backbone",
    "class_attention",
    "draw_xavier",
    "find_weights",
    "fix_sincos_positions",
    "from_spec",
    "group_norms",
    "is_timm",
    "licence_of",
    "load_backbone",
    "load_weights",
    "network_checksum",
    "normalise",
    "push_to_hub",
    "read_spec",
    "read_training_state",
    "resample_positions",
    "save_backbone",
    "save_pretrained",
    "split_branches",
    "weights_digest",
    "with_lineage",
]
