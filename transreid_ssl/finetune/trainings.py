"""The settings of each way to fine-tune, and what its objective, optimiser and plan are."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from transreid_ssl.data.views import ReIDAugmentConfig
from transreid_ssl.errors import UserError
from transreid_ssl.finetune.clusters import ClusterObjective, ClusterSettings, TargetSettings
from transreid_ssl.finetune.mgn import AdamSettings, MGNConfig, MGNObjective, adam_plan, build_adam
from transreid_ssl.finetune.supervised import (
    LabelledSettings,
    SGDSettings,
    SupervisedConfig,
    SupervisedObjective,
    build_sgd,
    sgd_plan,
)
from transreid_ssl.training import BackboneSettings, Plan, ProbeSettings, RunSettings


@dataclass(frozen=True)
class LabelledTraining:
    """What fine-tuning with labels has, whatever its method."""

    run: RunSettings = field(default_factory=RunSettings)
    data: LabelledSettings = field(default_factory=LabelledSettings)
    model: BackboneSettings = field(default_factory=BackboneSettings)
    augment: ReIDAugmentConfig = field(default_factory=ReIDAugmentConfig)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    name: ClassVar[str]

    def __post_init__(self) -> None:
        _check_groups(self, "images_per_identity")


@dataclass(frozen=True)
class SupervisedTraining(LabelledTraining):
    """Settings of supervised fine-tuning; the defaults are TransReID-SSL's ViT-S/16+ICS."""

    run: RunSettings = field(
        default_factory=lambda: RunSettings(
            output="outputs/supervised_finetune", epochs=120, batch_size=64
        )
    )
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    optim: SGDSettings = field(default_factory=SGDSettings)
    name: ClassVar[str] = "supervised"

    def objective(self, backbone: nn.Module, num_identities: int) -> SupervisedObjective:
        """Identity classification behind a BN neck, and triplets."""
        return SupervisedObjective(backbone, num_identities, self.supervised)

    def optimizer(self, objective: nn.Module) -> torch.optim.Optimizer:
        """SGD."""
        return build_sgd(objective, self.optim)

    def plan(self, steps_per_epoch: int) -> Plan:
        """The authors' schedule."""
        return sgd_plan(self.optim, self.run, steps_per_epoch)


@dataclass(frozen=True)
class MGNTraining(LabelledTraining):
    """Settings of fine-tuning an MGN; the defaults are LUPerson's."""

    run: RunSettings = field(
        default_factory=lambda: RunSettings(
            output="outputs/mgn_finetune", epochs=60, batch_size=64, precision="fp16"
        )
    )
    data: LabelledSettings = field(
        default_factory=lambda: LabelledSettings(images_per_identity=16, statistics="pretrained")
    )
    model: BackboneSettings = field(
        default_factory=lambda: BackboneSettings(
            name="mgn_resnet50", img_size=(384, 128), drop_path=0.0
        )
    )
    mgn: MGNConfig = field(default_factory=MGNConfig)
    optim: AdamSettings = field(default_factory=AdamSettings)
    name: ClassVar[str] = "mgn"

    def objective(self, backbone: nn.Module, num_identities: int) -> MGNObjective:
        """Eight classifiers and three triplet losses."""
        return MGNObjective(backbone, num_identities, self.mgn)

    def optimizer(self, objective: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return build_adam(objective, self.optim)

    def plan(self, steps_per_epoch: int) -> Plan:
        """Warm-up, plateau, cosine."""
        return adam_plan(self.optim, self.run, steps_per_epoch)


@dataclass(frozen=True)
class ClusterTraining:
    """Settings of training on clusters; the defaults are TransReID-SSL's USL, ViT-S/16+ICS."""

    run: RunSettings = field(
        default_factory=lambda: RunSettings(
            output="outputs/usl_finetune", epochs=50, batch_size=256, checkpoint_every=200
        )
    )
    data: TargetSettings = field(default_factory=TargetSettings)
    model: BackboneSettings = field(default_factory=lambda: BackboneSettings(drop_path=0.3))
    augment: ReIDAugmentConfig = field(default_factory=ReIDAugmentConfig)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    optim: SGDSettings = field(
        default_factory=lambda: SGDSettings(
            lr=3.5e-4, weight_decay=5e-4, bias_lr_scale=1.0, warmup_epochs=0, schedule="step"
        )
    )
    probe: ProbeSettings = field(default_factory=lambda: ProbeSettings(every=1000))

    def __post_init__(self) -> None:
        _check_groups(self, "images_per_cluster")
        if self.model.name.startswith("mgn_"):
            raise UserError(
                f"--model.name {self.model.name}: clusters need one feature behind a batch norm; "
                "choose a vit_… or resnet…"
            )
        if self.model.jpm:
            raise UserError(
                "--model.jpm: clusters need one feature behind a batch norm; set it to false"
            )

    def objective(self, backbone: nn.Module) -> ClusterObjective:
        """The memory of clusters."""
        return ClusterObjective(backbone, self.clusters)

    def optimizer(self, objective: nn.Module) -> torch.optim.Optimizer:
        """SGD."""
        return build_sgd(objective, self.optim)

    def plan(self) -> Plan:
        """The authors' schedule."""
        return sgd_plan(self.optim, self.run, self.clusters.steps_per_epoch)


def _check_groups(config: Any, name: str) -> None:
    """A batch is made of whole groups of one person's images."""
    size = getattr(config.data, name)
    if config.run.batch_size % size:
        raise UserError(
            f"--run.batch_size {config.run.batch_size}: give a multiple of --data.{name}, which "
            f"is {size}"
        )
