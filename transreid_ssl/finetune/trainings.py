"""The settings of each way to fine-tune, and what its objective is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transreid_ssl.data.settings import ReIDAugmentConfig
from transreid_ssl.errors import UserError
from transreid_ssl.finetune.settings import (
    CLUSTER_AUGMENT,
    CLUSTER_OPTIM,
    MGN_OPTIM,
    SUPERVISED_AUGMENT,
    SUPERVISED_OPTIM,
    ClusterSettings,
    LabelledSettings,
    MGNConfig,
    SupervisedConfig,
    TargetSettings,
)
from transreid_ssl.training.settings import (
    BackboneSettings,
    OptimizerSettings,
    ProbeSettings,
    RunSettings,
)

if TYPE_CHECKING:
    from transreid_ssl.finetune.clusters import ClusterObjective
    from transreid_ssl.models import Backbone
    from transreid_ssl.training import Objective


@dataclass(frozen=True)
class LabelledTraining(ABC):
    """What fine-tuning with labels has, whatever its method."""

    run: RunSettings = RunSettings()
    data: LabelledSettings = LabelledSettings()
    model: BackboneSettings = BackboneSettings()
    augment: ReIDAugmentConfig = SUPERVISED_AUGMENT
    probe: ProbeSettings = ProbeSettings()

    def __post_init__(self) -> None:
        _check_groups(self, "images_per_identity")

    @abstractmethod
    def objective(self, backbone: "Backbone", num_identities: int) -> "Objective":
        """The method's networks and losses."""


@dataclass(frozen=True)
class SupervisedTraining(LabelledTraining):
    """Settings of supervised fine-tuning; the defaults are TransReID-SSL's, in bf16."""

    run: RunSettings = RunSettings(output="outputs/supervised_finetune", epochs=120, batch_size=64)
    supervised: SupervisedConfig = SupervisedConfig()
    optim: OptimizerSettings = SUPERVISED_OPTIM

    def objective(self, backbone: "Backbone", num_identities: int) -> "Objective":
        """Identity classification behind a BN neck, and triplets."""
        from transreid_ssl.finetune.supervised import SupervisedObjective

        return SupervisedObjective(backbone, num_identities, self.supervised)


@dataclass(frozen=True)
class MGNTraining(LabelledTraining):
    """Settings of fine-tuning an MGN; the defaults are MGN's network and LUPerson's schedule."""

    run: RunSettings = RunSettings(
        output="outputs/mgn_finetune", epochs=60, batch_size=64, precision="fp16"
    )
    data: LabelledSettings = LabelledSettings(images_per_identity=16, statistics="pretrained")
    model: BackboneSettings = BackboneSettings(
        name="mgn_resnet50", img_size=(384, 128), drop_path=0.0
    )
    mgn: MGNConfig = MGNConfig()
    optim: OptimizerSettings = MGN_OPTIM

    def objective(self, backbone: "Backbone", num_identities: int) -> "Objective":
        """Eight classifiers, and triplet losses."""
        from transreid_ssl.finetune.mgn import MGNObjective

        return MGNObjective(backbone, num_identities, self.mgn)


@dataclass(frozen=True)
class ClusterTraining:
    """Settings of training on clusters; the defaults are TransReID-SSL's USL, ViT-S/16+ICS.

    But for ``run.norm_images``, which depends on the target: see the settings files. The network
    that is kept is the best of the probes, so that these are as many as theirs: every ten epochs.
    """

    run: RunSettings = RunSettings(
        output="outputs/usl_finetune",
        epochs=50,
        batch_size=256,
        precision="no",
        checkpoint_every=200,
    )
    data: TargetSettings = TargetSettings()
    model: BackboneSettings = BackboneSettings(drop_path=0.3, interpolation="cubic")
    augment: ReIDAugmentConfig = CLUSTER_AUGMENT
    clusters: ClusterSettings = ClusterSettings()
    optim: OptimizerSettings = CLUSTER_OPTIM
    probe: ProbeSettings = ProbeSettings(every=2000)

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

    def objective(self, backbone: "Backbone") -> "ClusterObjective":
        """The memory of clusters."""
        from transreid_ssl.finetune.clusters import ClusterObjective

        return ClusterObjective(backbone, self.clusters)


def _check_groups(config: Any, name: str) -> None:
    """A batch is made of whole groups of one person's images."""
    size = getattr(config.data, name)
    if config.run.batch_size % size:
        raise UserError(
            f"--run.batch_size {config.run.batch_size}: give a multiple of --data.{name}, which "
            f"is {size}"
        )
