"""Supervised fine-tuning of a multiple granularity network (MGN, arXiv 1804.01438).

With the settings that LUPerson (arXiv 2012.03753) evaluates its pre-trained ResNets with: Adam, a
plateau before the cosine, and pre-trained weights that rest while the new layers settle.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.finetune.losses import batch_hard_triplet
from transreid_ssl.models import MGN, BackboneSpec, MGNParts
from transreid_ssl.training.plan import Plan
from transreid_ssl.training.schedules import cosine, linear
from transreid_ssl.training.settings import RunSettings


@dataclass(frozen=True)
class MGNConfig:
    """The losses of an MGN, and how long its pre-trained weights rest.

    Args:
        label_smoothing: Share of the target spread over all identities.
        margin: Triplet margin in Euclidean distance; null: the soft margin, without tuning.
        id_weight: Weight of the identity cross-entropy, the mean over eight classifiers.
        triplet_weight: Weight of the triplet loss, the mean over three whole-person vectors.
        freeze_epochs: Epochs in which pre-trained weights rest; give 0 to train from scratch.
    """

    label_smoothing: float = 0.1
    margin: float | None = None
    id_weight: float = 1.0
    triplet_weight: float = 1.0
    freeze_epochs: int = 10

    def __post_init__(self) -> None:
        check_ranges(
            self, label_smoothing=(0, 0.99), margin=(0, None), id_weight=(0, None),
            triplet_weight=(0, None), freeze_epochs=(0, None),
        )  # fmt: skip


@dataclass(frozen=True)
class AdamSettings:
    """Adam with LUPerson's schedule: linear warm-up, a plateau, then a cosine.

    Args:
        lr: Learning rate of the plateau.
        weight_decay: For all weights alike, as part of the gradient.
        warmup_epochs: Epochs of linear warm-up.
        warmup_start: Share of ``lr`` that the warm-up begins with.
        plateau_epochs: The epoch at which the cosine begins.
        end: Share of ``lr`` that the cosine ends with.
    """

    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    warmup_epochs: int = 10
    warmup_start: float = 0.1
    plateau_epochs: int = 30
    end: float = 0.002

    def __post_init__(self) -> None:
        check_ranges(
            self, lr=(1e-12, None), weight_decay=(0, None), warmup_epochs=(0, None),
            warmup_start=(0, 1), plateau_epochs=(self.warmup_epochs, None), end=(0, 1),
        )  # fmt: skip


class MGNObjective(nn.Module):
    """An MGN and its classifiers with their loss.

    A classifier of its own sees each part after its reduction, and each whole-person vector before
    it. So the paper keeps the two losses apart: classification, which wants directions, has all of
    the branch's channels, and the triplet loss, which wants distances, the reduced vectors.

    Args:
        backbone: An ``MGN``.
        num_identities: Classes; ``identities`` in a batch are 0 … num_identities - 1.
        config: Weights and variants of the losses.

    Raises:
        UserError: another backbone.
    """

    def __init__(
        self, backbone: nn.Module, num_identities: int, config: MGNConfig | None = None
    ) -> None:
        super().__init__()
        if not isinstance(backbone, MGN):
            raise UserError(f"{backbone.spec.name}: these losses are for an mgn_…; choose one")
        self.backbone, self.config = backbone, config or MGNConfig()
        sizes = backbone.spec.architecture
        self.whole_classifiers = _classifiers(3, sizes.trunk.embed_dim, num_identities)
        self.part_classifiers = _classifiers(5, sizes.dim, num_identities)

    @property
    def spec(self) -> BackboneSpec:
        return self.backbone.spec

    def forward(self, batch: dict[str, Any], epoch: int = 0) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch: "images" uint8 (B, 3, H, W) and "identities" int64 (B,).
            epoch: Not used.

        Returns:
            0-d tensors: "loss" (the weighted sum), "id_loss", "triplet_loss" and "accuracy" (of the
            classifiers' mean).
        """
        config, identities = self.config, batch["identities"]
        found = self.backbone(batch["images"], parts=True)
        logits = self._logits(found)  # (B, 8, num_identities)
        id_loss = F.cross_entropy(
            logits.flatten(0, 1),
            identities.repeat_interleave(logits.shape[1]),
            label_smoothing=config.label_smoothing,
        )
        triplets = [batch_hard_triplet(v, identities, config.margin) for v in found.whole.unbind(1)]
        triplet_loss = torch.stack(triplets).mean()
        return {
            "loss": config.id_weight * id_loss + config.triplet_weight * triplet_loss,
            "id_loss": id_loss,
            "triplet_loss": triplet_loss,
            "accuracy": (logits.detach().mean(1).argmax(dim=1) == identities).float().mean(),
        }

    def _logits(self, found: MGNParts) -> Tensor:
        vectors = [*found.pooled.unbind(1), *found.parts.unbind(1)]
        classifiers = [*self.whole_classifiers, *self.part_classifiers]
        return torch.stack([c(v) for c, v in zip(classifiers, vectors)], dim=1).float()

    def before_step(self, epoch: int) -> None:
        """Take the gradients of what rests: without one, Adam leaves a weight as it is.

        The statistics of its batch norms follow the images all the same.
        """
        if epoch < self.config.freeze_epochs:
            for parameter in self.backbone.pretrained_parameters():
                parameter.grad = None

    def after_step(self, progress: float) -> None:
        """Nothing follows a step."""


def _classifiers(count: int, dim: int, num_identities: int) -> nn.ModuleList:
    layers = nn.ModuleList(nn.Linear(dim, num_identities, bias=False) for _ in range(count))
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.001)
    return layers


def build_adam(model: nn.Module, settings: AdamSettings) -> torch.optim.Adam:
    """Adam over all weights that are trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=settings.lr, weight_decay=settings.weight_decay)


def adam_learning_rate(epoch: float, epochs: int, settings: AdamSettings) -> float:
    """Learning rate at a moment of ``epochs``; a shorter run than the plateau has no cosine."""
    if epoch < settings.warmup_epochs:
        start = settings.warmup_start * settings.lr
        return linear(epoch, start=start, end=settings.lr, duration=settings.warmup_epochs)
    if epoch < settings.plateau_epochs:
        return settings.lr
    progress = (epoch - settings.plateau_epochs) / max(1, epochs - settings.plateau_epochs)
    return cosine(progress, settings.lr, settings.end * settings.lr)


def adam_plan(settings: AdamSettings, run: RunSettings, steps_per_epoch: int) -> Plan:
    """The schedule over a run; warm-up and cosine move with every step."""

    def learning_rate(step: int) -> float:
        return adam_learning_rate(step / steps_per_epoch, run.epochs, settings)

    return Plan(steps_per_epoch, run.epochs, learning_rate)
