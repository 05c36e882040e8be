"""The one training loop, its settings, schedules, run folder, checkpoints and probe."""

from transreid_ssl.training.config import parse_config, provenance, to_yaml
from transreid_ssl.training.health import CollapseWatch, feature_spread
from transreid_ssl.training.loop import Trainer
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.optim import (
    build_optimizer,
    clip_gradients,
    ema_update,
    parameter_groups,
)
from transreid_ssl.training.plan import Plan, make_plan
from transreid_ssl.training.probe import RetrievalProbe, retrieval_probe
from transreid_ssl.training.run import train
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.schedules import cosine, linear, warmup_cosine
from transreid_ssl.training.settings import (
    BackboneSettings,
    OptimizerSettings,
    PoolSettings,
    ProbeSettings,
    RunSettings,
)
from transreid_ssl.training.start import build_backbone_to_train, finish, start, training_pool
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
    "build_backbone_to_train",
    "build_optimizer",
    "clip_gradients",
    "cosine",
    "ema_update",
    "feature_spread",
    "finish",
    "linear",
    "make_plan",
    "parameter_groups",
    "parse_config",
    "provenance",
    "retrieval_probe",
    "share_cores",
    "start",
    "to_yaml",
    "train",
    "training_pool",
    "warmup_cosine",
]
