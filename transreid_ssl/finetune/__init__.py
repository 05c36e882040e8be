"""Fine-tuning on a target."""

from transreid_ssl.finetune.losses import batch_hard_triplet
from transreid_ssl.finetune.memory import ClusterMemory
from transreid_ssl.finetune.supervised import (
    LabelledSettings,
    SGDSettings,
    SupervisedConfig,
    SupervisedObjective,
    build_sgd,
    finetune_learning_rate,
    set_statistics,
    sgd_plan,
)

__all__ = [
    "ClusterMemory",
    "LabelledSettings",
    "SGDSettings",
    "SupervisedConfig",
    "SupervisedObjective",
    "batch_hard_triplet",
    "build_sgd",
    "finetune_learning_rate",
    "set_statistics",
    "sgd_plan",
]
