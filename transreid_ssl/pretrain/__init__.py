"""Self-supervised objectives, one file each."""

from transreid_ssl.pretrain.contrast import KeyQueue, info_nce
from transreid_ssl.pretrain.dino import DINO, DINOConfig, DINOLoss, cross_view_loss
from transreid_ssl.pretrain.moco import MoCo, MoCoConfig
from transreid_ssl.pretrain.networks import MomentumPair

__all__ = [
    "DINO",
    "DINOConfig",
    "DINOLoss",
    "KeyQueue",
    "MoCo",
    "MoCoConfig",
    "MomentumPair",
    "cross_view_loss",
    "info_nce",
]
