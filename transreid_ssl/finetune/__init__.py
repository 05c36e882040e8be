"""Fine-tuning on a target."""

from transreid_ssl.finetune.losses import batch_hard_triplet

__all__ = ["batch_hard_triplet"]
