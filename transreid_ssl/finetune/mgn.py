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
from transreid_ssl.models import MGN, MGNParts
from transreid_ssl.training import Objective, OptimizerSettings


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


MGN_OPTIM = OptimizerSettings(
    name="adam", lr=3.5e-4, lr_batch=None, schedule="plateau", warmup_epochs=10, warmup_start=0.1,
    plateau_epochs=30, min_lr=0.0, end=0.002, weight_decay=5e-4, weight_decay_end=None,
    decay_all=True, clip=0.0, clip_per_parameter=False,
)  # fmt: skip
"""LUPerson's; Adam's weight decay is part of the gradient."""


class MGNObjective(Objective):
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

    name = "mgn"

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


def _classifiers(count: int, dim: int, num_identities: int) -> nn.ModuleList:
    layers = nn.ModuleList(nn.Linear(dim, num_identities, bias=False) for _ in range(count))
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.001)
    return layers
