"""The one training loop, its settings, schedules, run folder, checkpoints and probe."""

from transreid_ssl.training.config import parse_config, provenance, to_yaml
from transreid_ssl.training.health import CollapseWatch, feature_spread
from transreid_ssl.training.loop import Objective, Trainer
from transreid_ssl.training.optim import (
    build_optimizer,
    clip_gradients,
    decay_groups,
    move_towards,
    pretraining_plan,
)
from transreid_ssl.training.plan import Plan
from transreid_ssl.training.probe import RetrievalProbe, retrieval_probe
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.schedules import cosine, linear, warmup_cosine
from transreid_ssl.training.settings import (
    BackboneSettings,
    OptimizerSettings,
    PoolSettings,
    ProbeSettings,
    RunSettings,
)
from transreid_ssl.training.start import finish, start, trained_backbone, training_pool
from transreid_ssl.training.threads import share_cores

__all__ = [
    "BackboneSettings",
    "CollapseWatch",
    "Objective",
    "OptimizerSettings",
    "Plan",
    "PoolSettings",
    "ProbeSettings",
    "RetrievalProbe",
    "RunFolder",
    "RunSettings",
    "Trainer",
    "build_optimizer",
    "clip_gradients",
    "cosine",
    "decay_groups",
    "feature_spread",
    "finish",
    "linear",
    "move_towards",
    "parse_config",
    "pretraining_plan",
    "provenance",
    "retrieval_probe",
    "share_cores",
    "start",
    "to_yaml",
    "trained_backbone",
    "training_pool",
    "warmup_cosine",
]
