"""PASS: DINO with a token for each part of a person (Zhu et al., 2203.03931, section 3)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models import PartTokenViT, ViewBackbone
from transreid_ssl.pretrain.cross_view import num_pairs
from transreid_ssl.pretrain.dino import DINO, build_head, build_loss
from transreid_ssl.pretrain.settings import DINOConfig


class PartDINO(DINO):
    """Class tokens are compared between all views, a part's token between large views and crops of
    its area. Each of these tokens has a head and a centre of its own, and all pairs weigh alike.

    Args:
        backbone, teacher_backbone, config, num_crops, num_teacher_crops: See ``DINO``; the networks
            are ``PartTokenViT``. Small view i is of area i % ``config.part_tokens``.

    Raises:
        UserError: a network without so many part tokens, or areas with unequally many crops.
    """

    name = "dino_parts"
    shares: Tensor
    """float32 (1 + parts,): what the losses of the class token and of the parts weigh."""

    part_losses: nn.ModuleList

    def __init__(
        self,
        backbone: ViewBackbone,
        teacher_backbone: ViewBackbone,
        config: DINOConfig,
        num_crops: int,
        num_teacher_crops: int = 2,
    ) -> None:
        parts, spec, small = config.part_tokens, backbone.spec, num_crops - num_teacher_crops
        found = getattr(spec.architecture, "part_tokens", 0)
        if not isinstance(backbone, PartTokenViT) or found != parts:
            raise UserError(
                f"--dino.part_tokens {parts}: {spec.name} has {found} of them; choose a vit_…_pass "
                "with --model.name and give 3, or leave it out"
            )
        if small < parts or small % parts:
            raise UserError(
                f"--views.num_local {small}: each of {parts} areas needs equally many small views; "
                f"give a multiple of {parts} (PASS takes 9)"
            )
        super().__init__(backbone, teacher_backbone, config, num_crops, num_teacher_crops)
        heads = nn.ModuleList(build_head(config, spec.architecture.map_dim) for _ in range(parts))
        self.student.part_heads, self.teacher.part_heads = heads, copy.deepcopy(heads)
        self.teacher.requires_grad_(False)
        seen = num_teacher_crops + small // parts
        self.part_losses = nn.ModuleList(
            build_loss(config, seen, num_teacher_crops) for _ in range(parts)
        )
        pairs = [num_pairs(each, num_teacher_crops) for each in (num_crops, *[seen] * parts)]
        # Follows from the settings, and is on the device before the first step.
        self.register_buffer("shares", torch.tensor(pairs) / sum(pairs), persistent=False)

    def doubt_mates(self) -> None:
        """Refuse: parts are compared in losses of their own.

        Raises:
            UserError: always.
        """
        raise UserError(
            "--views.doubt_mates is not made for --dino.part_tokens: leave one of them out"
        )

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]:
        """As DINO's, of a batch whose small views are of areas in turns."""
        large, small = batch["views"]
        with torch.no_grad():
            (targets,) = self.teacher.backbone.forward_areas(large)
            features = self.teacher.backbone.forward_head(targets)
        whole, *areas = self.student.backbone.forward_areas(large, self._by_area(small))
        classes = torch.cat([tokens[:, 0] for tokens in (whole, *areas)])
        with torch.no_grad():
            teacher_logits = self.teacher.head(targets[:, 0])
        values = self.compare(self.student.head(classes), features, teacher_logits, epoch)
        losses = [values["loss"]] + [
            self._compare_part(part, whole, area, targets, epoch) for part, area in enumerate(areas)
        ]
        values["loss"] = torch.dot(self.shares, torch.stack(losses))
        values["part_loss"] = torch.stack(losses[1:]).detach().mean()
        if self.config.koleo:
            crops = whole[:, 0].unflatten(0, (self.loss.num_teacher_crops, -1))
            self.add_koleo(values, crops, batch.get("tracks"))
        return values

    def _by_area(self, small: Tensor) -> Tensor:
        """Crop-major small views, of areas in turns, with the crops of each area together."""
        count = self.loss.num_crops - self.loss.num_teacher_crops
        views = small.unflatten(0, (-1, self.config.part_tokens, len(small) // count))
        return views.transpose(0, 1).flatten(0, 2)

    def _compare_part(
        self, part: int, whole: Tensor, area: Tensor, targets: Tensor, epoch: int
    ) -> Tensor:
        """The loss of one part's tokens: of the large views and the crops of its area."""
        with torch.no_grad():
            teacher = self.teacher.part_heads[part](targets[:, 1 + part])
        student = self.student.part_heads[part](torch.cat([whole[:, 1 + part], area[:, 1]]))
        return self.part_losses[part](student, teacher, epoch)

    def heads(self) -> list[nn.Module]:
        """The student's, the parts' among them."""
        return [*super().heads(), *self.student.part_heads]

    def after_step(self, progress: float) -> None:
        """Move every centre, and the teacher."""
        for loss in self.part_losses:
            loss.update_center()
        super().after_step(progress)
