"""Self-supervised objectives, one file each."""

from transreid_ssl.pretrain.dino import DINO, DINOConfig, DINOLoss, cross_view_loss

__all__ = ["DINO", "DINOConfig", "DINOLoss", "cross_view_loss"]
