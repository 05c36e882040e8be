"""Self-supervised objectives, one file each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "contrast": ["KeyQueue", "info_nce"],
        "distill": ["Distill", "relation_loss"],
        "dino": ["DINO", "DINOLoss", "cross_view_loss"],
        "moby": ["MoBY"],
        "moco": ["MoCo"],
        "mocov3": ["MoCoV3"],
        "networks": ["MomentumPair"],
        "run": ["backbone_pair", "pretrain", "student"],
        "settings": [
            "DINOConfig",
            "DistillConfig",
            "MoBYConfig",
            "MoCoConfig",
            "MoCoV3Config",
            "PretrainingConfig",
            "RegularisersConfig",
            "check_two_views",
        ],
        "upreid": ["UPReID", "UPReIDDINO"],
    },
)
