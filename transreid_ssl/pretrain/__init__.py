"""Self-supervised objectives, one file each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "continuing": ["continue_from", "saved_state"],
        "contrast": ["KeyQueue", "info_nce"],
        "cross_view": ["cross_view_loss"],
        "distill": ["Distill", "relation_loss"],
        "dino": ["DINO", "DINOLoss"],
        "moby": ["MoBY"],
        "moco": ["MoCo"],
        "mocov3": ["MoCoV3"],
        "networks": ["MomentumPair"],
        "part_dino": ["PartDINO"],
        "run": ["backbone_pair", "pretrain", "student", "without_weights"],
        "settings": [
            "DINOConfig",
            "DistillConfig",
            "InitSettings",
            "MoBYConfig",
            "MoCoConfig",
            "MoCoV3Config",
            "PretrainingConfig",
            "RegularisersConfig",
            "check_two_views",
        ],
        "trust": ["MateTrust", "weigh_gradient"],
        "upreid": ["UPReID", "UPReIDDINO"],
    },
)
