"""The one training loop, its settings, schedules, run folder, checkpoints and probe."""

from transreid_ssl.training.config import parse_config, provenance, to_yaml
from transreid_ssl.training.loop import Objective, Trainer
from transreid_ssl.training.optim import (
    adamw_plan,
    build_adamw,
    clip_gradients,
    decay_groups,
    move_towards,
)
from transreid_ssl.training.plan import Plan
from transreid_ssl.training.probe import RetrievalProbe, feature_spread, retrieval_probe
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.schedules import cosine, linear, warmup_cosine
from transreid_ssl.training.session import finish, start, trained_backbone, training_pool
from transreid_ssl.training.settings import (
    AdamWSettings,
    BackboneSettings,
    PoolSettings,
    ProbeSettings,
    RunSettings,
)

__all__ = [
    "AdamWSettings",
    "BackboneSettings",
    "Objective",
    "Plan",
    "PoolSettings",
    "ProbeSettings",
    "RetrievalProbe",
    "RunFolder",
    "RunSettings",
    "Trainer",
    "adamw_plan",
    "build_adamw",
    "clip_gradients",
    "cosine",
    "decay_groups",
    "feature_spread",
    "finish",
    "linear",
    "move_towards",
    "parse_config",
    "provenance",
    "retrieval_probe",
    "start",
    "to_yaml",
    "trained_backbone",
    "training_pool",
    "warmup_cosine",
]
