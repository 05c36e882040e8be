"""Fine-tuning on a target, with its labels or without."""

from transreid_ssl.finetune.clusters import ClusterObjective, ClusterSettings, TargetSettings
from transreid_ssl.finetune.losses import batch_hard_triplet
from transreid_ssl.finetune.memory import ClusterMemory
from transreid_ssl.finetune.pseudo_labels import Labeller, PseudoLabels
from transreid_ssl.finetune.stages import (
    open_labelled,
    open_target,
    train_on_clusters,
    train_with_labels,
)
from transreid_ssl.finetune.supervised import (
    LabelledSettings,
    SupervisedConfig,
    SupervisedObjective,
    set_statistics,
)
from transreid_ssl.finetune.trainings import ClusterTraining, MGNTraining, SupervisedTraining

__all__ = [
    "ClusterMemory",
    "ClusterObjective",
    "ClusterSettings",
    "ClusterTraining",
    "LabelledSettings",
    "Labeller",
    "MGNTraining",
    "PseudoLabels",
    "SupervisedConfig",
    "SupervisedObjective",
    "SupervisedTraining",
    "TargetSettings",
    "batch_hard_triplet",
    "open_labelled",
    "open_target",
    "set_statistics",
    "train_on_clusters",
    "train_with_labels",
]
