"""Self-supervised objectives, one file each."""

from transreid_ssl.pretrain.contrast import KeyQueue, info_nce
from transreid_ssl.pretrain.dino import DINO, DINOConfig, DINOLoss, cross_view_loss
from transreid_ssl.pretrain.moby import MoBY, MoBYConfig
from transreid_ssl.pretrain.moco import MoCo, MoCoConfig
from transreid_ssl.pretrain.mocov3 import MoCoV3, MoCoV3Config
from transreid_ssl.pretrain.networks import MomentumPair, check_two_views
from transreid_ssl.pretrain.regularisers import RegularisersConfig
from transreid_ssl.pretrain.run import PretrainingConfig, backbone_pair, pretrain
from transreid_ssl.pretrain.upreid import UPReID, UPReIDDINO

__all__ = [
    "DINO",
    "DINOConfig",
    "DINOLoss",
    "KeyQueue",
    "MoBY",
    "MoBYConfig",
    "MoCo",
    "MoCoConfig",
    "MoCoV3",
    "MoCoV3Config",
    "MomentumPair",
    "PretrainingConfig",
    "RegularisersConfig",
    "UPReID",
    "UPReIDDINO",
    "backbone_pair",
    "check_two_views",
    "cross_view_loss",
    "info_nce",
    "pretrain",
]
