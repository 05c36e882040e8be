"""UP-ReID (Yang et al., 2112.00317): contrast between people, regularised within each person.

MoCo v2 with the two terms of ``regularisers``, and, which the paper does not have, the same two
terms beside DINO. The paper's program was never published and its constants were not available:
weights, temperatures, the number of patches and the form of each term are ours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models import ViewBackbone
from transreid_ssl.pretrain.dino import DINO
from transreid_ssl.pretrain.moco import MoCo
from transreid_ssl.pretrain.regularisers import PatchContrast, consistency_loss
from transreid_ssl.pretrain.settings import DINOConfig, MoCoConfig, RegularisersConfig


class IntraIdentity(nn.Module):
    """Both terms with their weights, to be added to the values of any objective.

    Args:
        backbone: The network whose feature maps are compared.
        config: Settings; a term whose weight is 0 has no parameters and costs nothing.

    Raises:
        UserError: the backbone gives no feature map.
    """

    patches: PatchContrast | None

    def __init__(self, backbone: ViewBackbone, config: RegularisersConfig) -> None:
        super().__init__()
        if config.active and not hasattr(backbone, "forward_with_map"):
            raise UserError(
                f"--model.name {backbone.spec.name} has no single feature map to take patches of: "
                "choose a vit_… or a resnet…"
            )
        self.config = config
        map_dim = backbone.spec.architecture.map_dim
        self.patches = PatchContrast(map_dim, config) if config.intrinsic_weight else None

    def forward(
        self,
        values: dict[str, Tensor],
        batch: dict[str, Any],
        maps: Sequence[Tensor],
        logits: tuple[Tensor, Tensor] | None,
    ) -> dict[str, Tensor]:
        """The base's values with the terms added to "loss", and each of them for itself.

        Args:
            values: Of the base objective.
            batch: With ``boxes`` and ``flips`` of V views.
            maps: The fast network's feature maps, one a view, (B, D, h, w).
            logits: What ``consistency_loss`` compares; None: that term has no weight.
        """
        values = values | {"base_loss": values["loss"]}
        if logits is not None:
            values["consistency"] = consistency_loss(*logits)
            weighted = self.config.consistency_weight * values["consistency"]
            values["loss"] = values["loss"] + weighted
        if self.patches is not None:
            term, share = self.patches(maps, batch["boxes"], batch["flips"])
            values |= {"intrinsic": term, "patches_compared": share}
            values["loss"] = values["loss"] + self.config.intrinsic_weight * term
        return values


class UPReID(MoCo):
    """MoCo v2 with both terms; with both weights 0 it is MoCo v2, to the last bit.

    The distribution that is to survive augmentation is that of similarities to the queue's keys: of
    both views by the query encoder, of the plain image by the key encoder. Both views therefore
    pass the query encoder, even where only the first is a query.

    Args:
        backbone, key_backbone, config: See ``MoCo``.
        regularisers: Settings of the terms.
    """

    name = "upreid"

    temperature: float
    within: IntraIdentity

    def __init__(
        self,
        backbone: ViewBackbone,
        key_backbone: ViewBackbone,
        config: MoCoConfig,
        regularisers: RegularisersConfig,
    ) -> None:
        super().__init__(backbone, key_backbone, config)
        self.regularisers = regularisers
        self.temperature = regularisers.consistency_temperature or config.temperature
        self.within = IntraIdentity(backbone, regularisers)

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """As MoCo's, of a batch that has ``boxes``, ``flips`` and ``original`` besides."""
        if not self.regularisers.active:
            return super().forward(batch, epoch)
        views = self.two_views(batch)
        keys = self.keys(views)
        encoded = [self.query(view, with_map=True) for view in views]
        logits = None
        if self.regularisers.consistency_weight:
            plain = self.key(batch["original"])
            queries = torch.stack([queries for _, queries, _ in encoded])
            logits = self.similarities(queries), self.similarities(plain)
        values = self.compare(dict(enumerate(encoded)), keys)
        return self.within(values, batch, [maps for _, _, maps in encoded], logits)

    def similarities(self, vectors: Tensor) -> Tensor:
        """Of vectors of length 1, (…, dim), to the queue's keys, over temperature: (…, K)."""
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors @ self.queue.keys / self.temperature


class UPReIDDINO(DINO):
    """DINO with both terms; with both weights 0 it is DINO, to the last bit.

    There is no queue: the distribution that is to survive augmentation is that over the prototypes.
    The student's of each large view is compared with the teacher's of the plain image, sharpened
    and centred as in DINO's loss. Small views show too little of a body for either term.

    Args:
        backbone, teacher_backbone, config, num_crops, num_teacher_crops: See ``DINO``.
        regularisers: Settings of the terms.

    Raises:
        UserError: patches of two large views are to be compared, and there is one.
    """

    name = "upreid_dino"

    within: IntraIdentity

    def __init__(
        self,
        backbone: ViewBackbone,
        teacher_backbone: ViewBackbone,
        config: DINOConfig,
        regularisers: RegularisersConfig,
        num_crops: int,
        num_teacher_crops: int = 2,
    ) -> None:
        if regularisers.intrinsic_weight and num_teacher_crops < 2:
            raise UserError(
                "--views.num_global is 1: patches are compared between two large views; give 2 or "
                "more, or --regularisers.intrinsic_weight 0"
            )
        if config.additions:
            raise UserError(
                f"--dino.{config.additions[0]}: goes with DINO alone, not with UP-ReID's terms; "
                "leave it out, or use the recipe dino_pretrain"
            )
        super().__init__(backbone, teacher_backbone, config, num_crops, num_teacher_crops)
        self.regularisers = regularisers
        self.within = IntraIdentity(backbone, regularisers)

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """As DINO's, of a batch that has ``boxes``, ``flips`` and ``original`` besides."""
        if not self.regularisers.active:
            return super().forward(batch, epoch)
        views, num_large = batch["views"], self.loss.num_teacher_crops
        with torch.no_grad():
            features, teacher_logits = self.teacher(views[:1])
        _, student_logits, maps = self.student(views, with_map=True)
        logits = None
        if self.regularisers.consistency_weight:
            with torch.no_grad():
                original = self.loss.sharpen(self.teacher([batch["original"]])[1], epoch)
            large = student_logits.unflatten(0, (self.loss.num_crops, -1))[:num_large]
            logits = large.float() / self.loss.student_temp, original
        values = self.compare(student_logits, features, teacher_logits, epoch)
        return self.within(values, batch, maps.chunk(num_large), logits)
