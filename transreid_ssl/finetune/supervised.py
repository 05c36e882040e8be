"""Supervised fine-tuning: identity classification behind a BN neck, and a batch-hard triplet loss.

The "strong baseline" for ReID (arXiv 1903.07071) with the settings that TransReID-SSL (arXiv
2111.12084) fine-tunes its transformers with.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transreid_ssl.finetune.losses import batch_hard_triplet
from transreid_ssl.finetune.settings import SupervisedConfig
from transreid_ssl.models import (
    IMAGENET,
    LUPERSON_MGN,
    STATISTICS,
    Backbone,
    BNNeck,
    read_spec,
    split_branches,
)
from transreid_ssl.training import Objective


class SupervisedObjective(Objective):
    """Backbone, BN neck and classifier with their loss.

    The triplet loss sees features before the neck, where distances matter; the classifier sees them
    after, where batch normalisation has spread them. Retrieval and CFS use those before the neck.
    Each branch of a jigsaw patch module has a neck and a classifier of its own; the whole image
    makes half of each loss then, and the mean of its parts the other, as in TransReID's program.

    Args:
        backbone: With ``.spec``; maps uint8 (B, 3, H, W) to (B, D).
        num_identities: Classes; ``identities`` in a batch are 0 … num_identities - 1.
        config: Weights and variants of the losses.
    """

    name = "supervised"

    neck: BNNeck
    part_necks: nn.ModuleList
    config: SupervisedConfig

    def __init__(
        self, backbone: Backbone, num_identities: int, config: SupervisedConfig | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        spec = backbone.spec
        necks = [
            BNNeck(spec.embed_dim // spec.num_branches, num_identities)
            for _ in range(spec.num_branches)
        ]
        self.neck, self.part_necks = necks[0], nn.ModuleList(necks[1:])
        self.config = config or SupervisedConfig()

    def forward(self, batch: dict[str, Any], epoch: int = 0) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            batch: "images" uint8 (B, 3, H, W), "identities" int64 (B,) and, for a backbone that
                embeds cameras, "cameras" int64 (B,).
            epoch: Not used.

        Returns:
            0-d tensors: "loss" (the weighted sum), "id_loss", "triplet_loss" and "accuracy".
        """
        config, identities = self.config, batch["identities"]
        features = self.backbone(batch["images"], batch.get("cameras"))
        branches = split_branches(features, self.spec)  # each (B, D)
        necks = [self.neck, *self.part_necks]
        logits = [neck(x)[1].float() for neck, x in zip(necks, branches)]  # (B, num_identities)
        id_loss = _half_of_parts(
            [F.cross_entropy(x, identities, label_smoothing=config.label_smoothing) for x in logits]
        )
        triplet_loss = _half_of_parts(
            [batch_hard_triplet(x, identities, config.margin) for x in branches]
        )
        return {
            "loss": config.id_weight * id_loss + config.triplet_weight * triplet_loss,
            "id_loss": id_loss,
            "triplet_loss": triplet_loss,
            "accuracy": (logits[0].detach().argmax(dim=1) == identities).float().mean(),
        }


def _half_of_parts(losses: list[Tensor]) -> Tensor:
    """The whole image's loss, or half of it and half of the mean of its parts' losses."""
    whole, *parts = losses
    return (whole + torch.stack(parts).mean()) / 2 if parts else whole


def set_statistics(backbone: Backbone, which: str, weights: str | None) -> None:
    """Record in ``backbone.spec`` what its images are normalised with from here on.

    Args:
        backbone: changed in place.
        which: see ``LabelledSettings.statistics``.
        weights: the initial weights, whose header is read for "pretrained"; ImageNet's without.
    """
    chosen = {**STATISTICS, "luperson_mgn": LUPERSON_MGN}.get(which)
    if chosen is None:
        chosen = read_spec(weights) if weights else IMAGENET
    backbone.spec = replace(backbone.spec, mean=chosen.mean, std=chosen.std)
