"""Fine-tuning on a target, with its labels or without."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "clusters": ["ClusterObjective"],
        "losses": ["batch_hard_triplet"],
        "memory": ["ClusterMemory"],
        "pseudo_labels": ["Labeller", "PseudoLabels"],
        "settings": ["ClusterSettings", "LabelledSettings", "SupervisedConfig", "TargetSettings"],
        "stages": ["open_labelled", "open_target", "train_on_clusters", "train_with_labels"],
        "supervised": ["SupervisedObjective", "set_statistics"],
        "trainings": ["ClusterTraining", "MGNTraining", "SupervisedTraining"],
    },
)
