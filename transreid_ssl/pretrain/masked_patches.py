"""Masked patches: the student tells the teacher's output of what it does not see.

iBOT (Zhou et al., 2111.07832, section 3.2), which PersonViT (2408.05398) brought to persons.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.models import ReIDViT, ViewBackbone
from transreid_ssl.pretrain.center import Centred
from transreid_ssl.pretrain.masks import draw_masks
from transreid_ssl.pretrain.settings import DINOConfig
from transreid_ssl.pretrain.sinkhorn import sinkhorn


class Masked(NamedTuple):
    """The patches of a batch that are hidden."""

    chosen: Tensor
    """Their numbers, int64 (M,), row by row through an image and image by image."""
    weights: Tensor
    """What each counts, float32 (M,): every masked image alike, over the number of images."""


def masked_loss(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Weighted sum of the cross-entropies of masked patches (iBOT, eq. 2): a 0-d float32.

    Args:
        student: Logits, (M, K), of any precision; M may be 0.
        teacher: Probabilities, float32 (M, K).
        weights: Float32 (M,).
        temperature: The student's.
    """
    return _MaskedLoss.apply(student, teacher, weights, temperature)


class _MaskedLoss(torch.autograd.Function):
    """Keeps the logits as they are for the backward pass, and nothing of float32 beside them but
    the teacher's probabilities."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, weights: Tensor, temperature: float
    ) -> Tensor:
        scores = student.float() / temperature
        normalisers = scores.logsumexp(dim=-1)
        ctx.save_for_backward(student, teacher, weights, normalisers)
        ctx.temperature = temperature
        return (weights * (normalisers - torch.einsum("mk,mk->m", teacher, scores))).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher, weights, normalisers = ctx.saved_tensors
        softmax = (student.float() / ctx.temperature).sub_(normalisers[:, None]).exp_()
        scale = (weights * gradient / ctx.temperature)[:, None]
        return softmax.sub_(teacher).mul_(scale).to(student.dtype), None, None, None


class MaskedPatches(Centred):
    """Draws masks, has what the student sees in place of a patch, and compares outputs of patches.

    Owns a centre of its own, of the masked patches of all processes, each of which counts alike.

    Masks are drawn on the CPU, from torch's generator, which the training loop sets anew for every
    step: a resumed run draws what an unbroken one does, and how many patches are masked is known
    without waiting for a GPU.

    Args:
        backbone: A ViT whose feature is as long as its tokens.
        config: Settings.
        out_dim: K, outputs of the head that patches pass.

    Raises:
        UserError: another network.
    """

    config: DINOConfig
    grid: Callable[[tuple[int, int]], tuple[int, int]]
    embedding: nn.Parameter

    def __init__(self, backbone: ViewBackbone, config: DINOConfig, out_dim: int) -> None:
        super().__init__(out_dim, config.center_momentum)
        spec = backbone.spec
        if not isinstance(backbone, ReIDViT) or spec.embed_dim != spec.architecture.map_dim:
            raise UserError(
                f"--dino.masked_patches: {spec.name} has no patches that could pass the head of "
                "its feature; choose a plain vit_… without jpm, or leave it out"
            )
        self.config, self.grid = config, backbone.patch_embed.dynamic_feat_size
        self.embedding = nn.Parameter(torch.zeros(spec.architecture.map_dim))

    def draw(self, images: Tensor) -> Masked:
        """Masks of images (B, 3, H, W)."""
        config, number = self.config, len(images)
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        masks = draw_masks(
            rng, number, self.grid(tuple(images.shape[-2:])), mean=config.masked_patches,
            spread=config.masked_spread, images=config.masked_images,
        )  # fmt: skip
        counts = masks.sum(axis=(1, 2))
        weights = np.repeat(1 / np.maximum(counts, 1) / number, counts).astype(np.float32)
        found = torch.from_numpy(np.flatnonzero(masks)), torch.from_numpy(weights)
        return Masked(*(tensor.to(images.device, non_blocking=True) for tensor in found))

    def forward(
        self, student: Tensor, teacher: Tensor, masked: Masked, teacher_temp: float
    ) -> Tensor:
        """The loss of the masked patches' logits, (M, K) each; 0 without any."""
        with torch.autocast(student.device.type, enabled=False):
            probabilities = self.targets(teacher, teacher_temp)
            loss = masked_loss(student, probabilities, masked.weights, self.config.student_temp)
        if self.training and self.config.centering == "mean":
            total = teacher.detach().sum(dim=0, keepdim=True, dtype=self.center.dtype)
            self.note(total, len(teacher))
        return loss

    @torch.no_grad()
    def targets(self, teacher: Tensor, teacher_temp: float) -> Tensor:
        """The teacher's probabilities, float32 (M, K)."""
        if self.config.centering == "sinkhorn":
            return sinkhorn(teacher.float() / teacher_temp).exp_()
        return ((teacher.float() - self.center) / teacher_temp).softmax(dim=-1)
