"""The settings of each objective, and of a pre-training run."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transreid_ssl.data.settings import MultiCropConfig
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.outputs import PRETRAINED
from transreid_ssl.training.settings import (
    AUTO_PROBE,
    BackboneSettings,
    OptimizerSettings,
    PoolSettings,
    ProbeSettings,
    RunSettings,
)

if TYPE_CHECKING:
    from transreid_ssl.pretrain.own import Chosen


@dataclass(frozen=True)
class PretrainingConfig:
    """What every recipe of pre-training has; a recipe adds its method's settings."""

    run: RunSettings = RunSettings()
    data: PoolSettings = PoolSettings()
    model: BackboneSettings = BackboneSettings()
    views: MultiCropConfig = MultiCropConfig()
    optim: OptimizerSettings = OptimizerSettings()
    probe: ProbeSettings = ProbeSettings(data=AUTO_PROBE)

    @classmethod
    def own_settings(cls, demo: Path) -> dict[str, Any]:
        """What ``choose`` begins with, by dotted names: see ``own.base_settings``."""
        from transreid_ssl.pretrain.own import base_settings

        return base_settings(cls, demo)

    def choose(self, given: Collection[str], demo: Path) -> "Chosen":
        """Settings for the pool and the machine: see ``own.choose``."""
        from transreid_ssl.pretrain.own import choose

        return choose(self, given, demo)


@dataclass(frozen=True)
class InitSettings:
    """How a run of DINO begins.

    Args:
        heads: Take from ``--model.weights``, a training checkpoint, the student, the teacher, their
            heads and the centre, and go on from there; else its backbone alone, with new heads.
    """

    heads: bool = False


@dataclass(frozen=True)
class DINOConfig:
    """DINO's settings, as TransReID-SSL's published run has them.

    Args:
        out_dim: Outputs ("prototypes") of the head; many help large pools, hundreds do for a demo.
        hidden_dim: Width of the head's two hidden layers.
        bottleneck_dim: Width before the last layer.
        head_layers: Layers of the head's MLP.
        use_bn_in_head: Batch norm in the head.
        norm_last_layer: Keep the last layer's weight norms at one; steadier for small networks.
        freeze_last_layer: Epochs during which the last layer stays as it is.
        student_temp: Temperature of the student's softmax.
        warmup_teacher_temp: Teacher temperature at the start; low is sharp. Too high is unstable.
        teacher_temp: Teacher temperature after its warm-up; above 0.07 it tends to collapse.
        warmup_teacher_temp_epochs: Epochs of that warm-up (0: constant ``teacher_temp``).
        center_momentum: Momentum of the centre that keeps one output from taking all.
        momentum_teacher: Momentum of the teacher at the start, to 1 along a cosine. Small batches
            and long runs want it higher, short runs lower.
        centering: "mean" subtracts the centre from the teacher's logits (DINO, section 3.1);
            "sinkhorn" makes its outputs equally frequent in each batch of all processes by three
            rounds of Sinkhorn-Knopp (SwAV, 2006.09882, section 3.1; DINOv2, 2304.07193, section 4).
        koleo: Weight of the KoLeo regulariser, which spreads the student's features of each large
            view over the sphere (DINOv2, section 4: 0.1). Images of one track do not repel each
            other, if tracks are known.
        masked_patches: Mean share of patches that the student does not see of a masked large view
            and has to tell the teacher's output of (iBOT, 2111.07832, section 3.2: 0.3); 0: none.
        masked_spread: An image's share is drawn from this much below to this much above the mean.
        masked_images: Share of the large views that are masked.
        masked_weight: Weight of the loss of masked patches.
        patch_out_dim: Outputs of a head for patches alone; 0: they pass the views' head (iBOT,
            section 4.1: shared, with 8,192 outputs).
        part_tokens: Areas of a person, from top to bottom, each with a token, a head and a centre
            of its own; small view i is cut from area i % part_tokens (PASS, 2203.03931, section 3:
            3). 0: none. Needs a vit_…_pass, which has so many tokens.
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_layers: int = 3
    use_bn_in_head: bool = False
    norm_last_layer: bool = True
    freeze_last_layer: int = 1
    student_temp: float = 0.1
    warmup_teacher_temp: float = 0.04
    teacher_temp: float = 0.04
    warmup_teacher_temp_epochs: int = 0
    center_momentum: float = 0.9
    momentum_teacher: float = 0.996
    centering: Literal["mean", "sinkhorn"] = "mean"
    koleo: float = 0.0
    masked_patches: float = 0.0
    masked_spread: float = 0.2
    masked_images: float = 0.5
    masked_weight: float = 1.0
    patch_out_dim: int = 0
    part_tokens: int = 0

    @property
    def additions(self) -> list[str]:
        """The options that make it another objective than DINO's own."""
        chosen = {
            "centering": self.centering != "mean", "koleo": self.koleo > 0,
            "masked_patches": self.masked_patches > 0, "part_tokens": self.part_tokens > 0,
        }  # fmt: skip
        return [name for name, taken in chosen.items() if taken]

    def __post_init__(self) -> None:
        check_ranges(
            self, out_dim=(1, None), hidden_dim=(1, None), bottleneck_dim=(1, None),
            head_layers=(1, None), freeze_last_layer=(0, None), student_temp=(1e-4, None),
            warmup_teacher_temp=(1e-4, None), teacher_temp=(1e-4, None),
            warmup_teacher_temp_epochs=(0, None), center_momentum=(0, 1), momentum_teacher=(0, 1),
            koleo=(0, None), masked_patches=(0, 0.9), masked_spread=(0, 0.9), masked_images=(0, 1),
            masked_weight=(0, None), patch_out_dim=(0, None), part_tokens=(0, 16),
        )  # fmt: skip
        if self.masked_patches and self.part_tokens:
            raise UserError(
                "--dino.masked_patches and --dino.part_tokens: each has tokens of its own to learn "
                "from, and both together are not made; give one of them"
            )
        if self.masked_patches and self.use_bn_in_head:
            raise UserError(
                "--dino.masked_patches: batch norm in the head would mix views and patches, whose "
                "number changes; set --dino.use_bn_in_head to false"
            )


@dataclass(frozen=True)
class MoCoConfig:
    """MoCo's settings, as LUPerson's published run has them.

    Args:
        dim: Size of queries and keys.
        hidden_dim: Width of the head's hidden layer; null: the backbone's.
        queue_size: Keys to tell a query's own from. Many need a large pool: a queue that holds an
            image's own earlier keys among its negatives works against the positives.
        temperature: Of the softmax; LUPerson's is lower than MoCo v2's 0.2.
        momentum: Of the key encoder, constant; short runs want it lower.
        symmetric: Let each view be a query once and a key once: twice the work a step. LUPerson
            and MoCo v2 do not.
        head_norm: Batch norm in the head, which neither has.
    """

    dim: int = 128
    hidden_dim: int | None = None
    queue_size: int = 65536
    temperature: float = 0.1
    momentum: float = 0.999
    symmetric: bool = False
    head_norm: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self, dim=(1, None), hidden_dim=(1, None), queue_size=(1, None),
            temperature=(1e-4, None), momentum=(0, 1),
        )  # fmt: skip


@dataclass(frozen=True)
class MoCoV3Config:
    """MoCo v3's settings for a ViT, which TransReID-SSL's comparison took over.

    Args:
        dim: Size of queries and keys.
        hidden_dim: Width of the hidden layers of both heads.
        head_norm: Batch norm after every layer of both heads.
        temperature: Of the softmax.
        momentum: Of the key encoder at the start, to 1 along a cosine.
        freeze_patches: Leave the patch embedding at its initial weights; of a convolution stem all
            layers. False lets it learn, as networks without patches need it.
        initialisation: "xavier" draws the network's weights as the paper does, which gives the
            frozen patch embedding about twice the scale of "default", the network's own start.
        positions: "sincos" keeps position embeddings at sines and cosines of row and column;
            "learned" leaves them as they are and lets them learn.
    """

    dim: int = 256
    hidden_dim: int = 4096
    head_norm: bool = True
    temperature: float = 0.2
    momentum: float = 0.99
    freeze_patches: bool = True
    initialisation: Literal["xavier", "default"] = "xavier"
    positions: Literal["sincos", "learned"] = "sincos"

    def __post_init__(self) -> None:
        check_ranges(
            self, dim=(1, None), hidden_dim=(1, None), temperature=(1e-4, None), momentum=(0, 1)
        )


@dataclass(frozen=True)
class MoBYConfig:
    """MoBY's settings, as its authors' run of DeiT-S has them.

    Args:
        dim: Size of queries and keys.
        hidden_dim: Width of the hidden layer of both heads.
        head_norm: Batch norm in both heads.
        queue_size: Keys of each view to tell a query's own from.
        temperature: Of the softmax.
        momentum: Of the key encoder at the start, to 1 along a cosine.
    """

    dim: int = 256
    hidden_dim: int = 4096
    head_norm: bool = True
    queue_size: int = 4096
    temperature: float = 0.2
    momentum: float = 0.99

    def __post_init__(self) -> None:
        check_ranges(
            self, dim=(1, None), hidden_dim=(1, None), queue_size=(1, None),
            temperature=(1e-4, None), momentum=(0, 1),
        )  # fmt: skip


@dataclass(frozen=True)
class DistillConfig:
    """What a small network learns from a large one; the constants are ours.

    Args:
        teacher: Weights of the large network, in any format that this program reads.
        relation: How the similarities within a batch are compared: "kl", the divergence of their
            softmaxes (probabilistic knowledge transfer), or "l2", their mean squared difference
            (similarity-preserving distillation).
        relation_weight: Weight of that comparison.
        temperature: Of the softmaxes of "kl"; low looks at the most alike images alone.
        feature_weight: Weight of the cosine distance between the teacher's feature and a linear
            map of the student's; 0 leaves the map out.
    """

    teacher: str = PRETRAINED
    relation: Literal["kl", "l2"] = "kl"
    relation_weight: float = 1.0
    temperature: float = 0.1
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, relation_weight=(0, None), temperature=(1e-4, None), feature_weight=(0, None)
        )
        if not self.relation_weight and not self.feature_weight:
            raise UserError(
                "relation_weight and feature_weight are both 0, and nothing would be learnt; "
                "raise one"
            )


@dataclass(frozen=True)
class RegularisersConfig:
    """The two terms and their constants; all are ours, as the paper's were not available.

    Args:
        consistency_weight: Weight of the global consistency; 0 leaves it and its passes out.
        consistency_temperature: Temperature of the similarities over the queue; null: the base
            objective's. DINO compares its own outputs, at its own temperatures, whatever stands
            here.
        intrinsic_weight: Weight of the contrast of patches; 0 leaves it and its head out.
        num_patches: Horizontal stripes of equal height that the image is cut into.
        num_columns: Columns that each stripe is cut into.
        min_coverage: A patch counts where both views show at least this share of it together.
        patch_temperature: Temperature of the contrast of patches; low is sharp.
        hardness: A negative with cosine similarity s weighs in proportion to exp(hardness * s), one
            on average; 0 weighs all alike.
        patch_hidden_dim: Width of the hidden layer of the patches' projection head.
        patch_dim: Width of its output.
    """

    consistency_weight: float = 1.0
    consistency_temperature: float | None = None
    intrinsic_weight: float = 0.2
    num_patches: int = 6
    num_columns: int = 1
    min_coverage: float = 0.3
    patch_temperature: float = 0.2
    hardness: float = 1.0
    patch_hidden_dim: int = 512
    patch_dim: int = 128

    @property
    def active(self) -> bool:
        """Whether a term has a weight."""
        return bool(self.consistency_weight or self.intrinsic_weight)

    def __post_init__(self) -> None:
        check_ranges(
            self, consistency_weight=(0, None), consistency_temperature=(1e-4, None),
            intrinsic_weight=(0, None), num_patches=(1, None), num_columns=(1, None),
            min_coverage=(1e-3, 1), patch_temperature=(1e-4, None), hardness=(0, None),
            patch_hidden_dim=(1, None), patch_dim=(1, None),
        )  # fmt: skip
        if self.intrinsic_weight and self.num_patches * self.num_columns < 2:
            raise UserError(
                "num_patches * num_columns is 1: a patch is told from others of its image; "
                "give two or more, or intrinsic_weight 0"
            )


def check_two_views(views: MultiCropConfig) -> None:
    """Refuse views that a contrast of two large views cannot use."""
    if (views.num_global, views.num_local) != (2, 0):
        raise UserError(
            f"--views.num_global is {views.num_global} and --views.num_local {views.num_local}: "
            "this objective compares two large views of an image; give 2 and 0"
        )
