"""Supervised fine-tuning of a multiple granularity network (MGN, arXiv 1804.01438).

With the schedule that LUPerson (arXiv 2012.03753) evaluates its pre-trained ResNets with: Adam, a
plateau before the cosine, and pre-trained weights that rest while the new layers settle. The
network, and with it which vectors the losses see, are those of MGN's paper or LUPerson's own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.finetune.losses import batch_hard_triplet, circle_logits, smoothed_cross_entropy
from transreid_ssl.finetune.settings import MGNConfig
from transreid_ssl.models import MGN, Backbone, CosineClassifier, MGNParts
from transreid_ssl.models.architectures import MGNArchitecture
from transreid_ssl.training import Objective
from transreid_ssl.training.phases import Phase


class MGNObjective(Objective):
    """An MGN and its classifiers with their loss.

    Eight vectors have classifiers of their own; which ones, and which are compared in triplets, is
    told by the network's head (see ``classified`` and ``compared``). Those of LUPerson's head are
    trained with Circle loss, on cosines.

    Args:
        backbone: An ``MGN``.
        num_identities: Classes; ``identities`` in a batch are 0 … num_identities - 1.
        config: Weights and variants of the losses.

    Raises:
        UserError: another backbone.
    """

    name = "mgn"

    backbone: MGN
    config: MGNConfig
    classifiers: nn.ModuleList

    def __init__(
        self, backbone: Backbone, num_identities: int, config: MGNConfig | None = None
    ) -> None:
        super().__init__()
        if not isinstance(backbone, MGN):
            raise UserError(f"{backbone.spec.name}: these losses are for an mgn_…; choose one")
        self.backbone, self.config = backbone, config or MGNConfig()
        sizes = backbone.spec.architecture
        assert isinstance(sizes, MGNArchitecture)
        self._sizes = sizes
        self.classifiers = _classifiers(sizes, num_identities)

    @property
    def phases(self) -> Sequence[Phase]:
        rest = "the pre-trained weights rest"
        return [Phase("mgn.freeze_epochs", self.config.freeze_epochs, rest, 1 / 6)]

    def forward(self, batch: dict[str, Any], epoch: int = 0) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch: "images" uint8 (B, 3, H, W) and "identities" int64 (B,).
            epoch: Which tells whether pre-trained weights rest.

        Returns:
            0-d tensors: "loss" (the weighted sum), "id_loss", "triplet_loss" and "accuracy" (of the
            classifiers' mean).
        """
        config, identities = self.config, batch["identities"]
        self._set_statistics(epoch)
        found = self.backbone(batch["images"], parts=True)
        head = self._sizes.head
        vectors = zip(self.classifiers, classified(found, head))
        scores = torch.stack([classify(v) for classify, v in vectors], dim=1).float()  # (B, 8, C)
        id_loss = self._id_loss(scores.flatten(0, 1), identities.repeat_interleave(scores.shape[1]))
        rule = config.margin, config.triplet_part
        compare = [batch_hard_triplet(v, identities, *rule) for v in compared(found, head)]
        triplet_loss = torch.stack(compare).mean()
        return {
            "loss": config.id_weight * id_loss + config.triplet_weight * triplet_loss,
            "id_loss": id_loss,
            "triplet_loss": triplet_loss,
            "accuracy": (scores.detach().mean(1).argmax(dim=1) == identities).float().mean(),
        }

    def _id_loss(self, scores: Tensor, identities: Tensor) -> Tensor:
        config = self.config
        if self._sizes.head == "luperson":
            scores = circle_logits(scores, identities, config.circle_scale, config.circle_margin)
        return smoothed_cross_entropy(
            scores, identities, config.label_smoothing, config.smoothing_over
        )

    def _set_statistics(self, epoch: int) -> None:
        # By the epoch alone, before every pass: so a resumed run does what an unbroken one does.
        if self.training and self.config.freeze_statistics:
            self.backbone.train_pretrained(epoch >= self.config.freeze_epochs)

    def before_step(self, epoch: int) -> None:
        """Take the gradients of what rests: without one, Adam leaves a weight as it is."""
        if epoch < self.config.freeze_epochs:
            for parameter in self.backbone.pretrained_parameters():
                parameter.grad = None


def classified(found: MGNParts, head: str) -> list[Tensor]:
    """The eight vectors (B, …) that classifiers see: the three of the whole, then the five parts.

    MGN's paper classifies the whole before its reduction. So it keeps the two losses apart:
    classification, which wants directions, has all of the branch's channels, and the triplet loss,
    which wants distances, the reduced vectors. LUPerson classifies reduced vectors alone.
    """
    whole = found.pooled if head == "mgn" else found.whole
    return [*whole.unbind(1), *found.parts.unbind(1)]


def compared(found: MGNParts, head: str) -> list[Tensor]:
    """The vectors (B, …) that triplets compare: the three of the whole.

    LUPerson compares two more: the halves side by side, and the thirds.
    """
    if head == "mgn":
        return list(found.whole.unbind(1))
    halves, thirds = found.parts[:, :2].flatten(1), found.parts[:, 2:].flatten(1)
    return [*found.whole.unbind(1), halves, thirds]


def _classifiers(sizes: MGNArchitecture, num_identities: int) -> nn.ModuleList:
    if sizes.head == "luperson":
        return nn.ModuleList(CosineClassifier(sizes.dim, num_identities) for _ in range(8))
    dims = [sizes.trunk.embed_dim] * 3 + [sizes.dim] * 5
    layers = nn.ModuleList(nn.Linear(dim, num_identities, bias=False) for dim in dims)
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.001)
    return layers
