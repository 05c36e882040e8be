"""Supervised fine-tuning: identity classification behind a BN neck, and a batch-hard triplet loss.

The "strong baseline" for ReID (arXiv 1903.07071) with the settings that TransReID-SSL (arXiv
2111.12084) fine-tunes its transformers with.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transreid_ssl.data.readers import DEFAULT_PATTERN
from transreid_ssl.data.views import ReIDAugmentConfig
from transreid_ssl.errors import check_ranges
from transreid_ssl.finetune.losses import batch_hard_triplet
from transreid_ssl.models import HALF, IMAGENET, LUPERSON_MGN, BNNeck, read_spec, split_branches
from transreid_ssl.training import Objective, OptimizerSettings


@dataclass(frozen=True)
class SupervisedConfig:
    """The losses.

    Args:
        label_smoothing: Share of the target spread over all identities; TransReID-SSL uses none.
        margin: Triplet margin in Euclidean distance; null: the soft margin, without tuning.
        id_weight: Weight of the identity cross-entropy.
        triplet_weight: Weight of the triplet loss.
    """

    label_smoothing: float = 0.0
    margin: float | None = None
    id_weight: float = 1.0
    triplet_weight: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, label_smoothing=(0, 0.99), margin=(0, None), id_weight=(0, None),
            triplet_weight=(0, None),
        )  # fmt: skip


@dataclass(frozen=True)
class LabelledSettings:
    """The labelled images to train on.

    Args:
        name: "market1501", "msmt17", several joined by "+", "folder", or "demo" (generated).
        root: Their folder; for several sets the common parent, or their folders joined by a comma.
        pattern: Of the set "folder": where a path says the identity and the camera.
        images_per_identity: How many images of each person a batch holds; the triplet loss needs 2.
        spread_identities: Deal the images of each person out over a batch, so that a part of it,
            such as ``run.norm_images``, has images of everybody in it instead of whole persons.
        statistics: What images are normalised with: "half" (mean and std 0.5, as TransReID-SSL
            fine-tunes), "imagenet", "luperson_mgn" (as LUPerson fine-tunes), or "pretrained" for
            those of the initial weights.
        label_budget: Share of the labels to train on (LUPerson's small-scale and few-shot sizes);
            null: all. Budgets of one seed contain one another.
        label_budget_by: "identity" keeps people with all of their images, "image" as large a share
            of each person's images, one at least.
        label_list: A list of what to train on: an identity a line, or "name; pid; cam".
        label_repeat: How often an image is counted, 1 or more, which lengthens the epochs of a
            small budget (LUPerson's ``repeat_ratio`` of few-shot lists: 2 or 3).
    """

    name: str = "demo"
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    images_per_identity: int = 4
    spread_identities: bool = False
    statistics: Literal["half", "imagenet", "luperson_mgn", "pretrained"] = "half"
    label_budget: float | None = None
    label_budget_by: Literal["identity", "image"] = "identity"
    label_list: str | None = None
    label_repeat: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(
            self, images_per_identity=(2, None), label_budget=(1e-9, 1), label_repeat=(1, None)
        )


SUPERVISED_AUGMENT = ReIDAugmentConfig(interpolation="cubic")
"""TransReID-SSL's: bicubic resizing, and noise where an image is erased."""
SUPERVISED_OPTIM = OptimizerSettings(
    name="sgd", lr=4e-4, lr_batch=None, by_epoch=True, warmup_epochs=20, warmup_start=0.01,
    min_lr=0.0, end=0.002, weight_decay=1e-4, weight_decay_end=None, decay_all=True,
    bias_lr_scale=2.0, clip=0.0, clip_per_parameter=False,
)  # fmt: skip
"""TransReID-SSL's: a small rate, because the pre-trained features are to be kept."""


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

    def __init__(
        self, backbone: nn.Module, num_identities: int, config: SupervisedConfig | None = None
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


def set_statistics(backbone: nn.Module, which: str, weights: str | None) -> None:
    """Record in ``backbone.spec`` what its images are normalised with from here on.

    Args:
        backbone: changed in place.
        which: see ``LabelledSettings.statistics``.
        weights: the initial weights, whose header is read for "pretrained"; ImageNet's without.
    """
    chosen = {"half": HALF, "imagenet": IMAGENET, "luperson_mgn": LUPERSON_MGN}.get(which)
    if chosen is None:
        chosen = read_spec(weights) if weights else IMAGENET
    backbone.spec = replace(backbone.spec, mean=chosen.mean, std=chosen.std)
