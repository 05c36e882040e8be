"""The cross-entropy between all views of an image that DINO learns by (2104.14294, eq. 3)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def cross_view_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean cross-entropy of every student view against every teacher view but itself (eq. 3).

    With log-softmax written as ``z - logsumexp(z)`` and a teacher that sums to one, a pair costs
    ``logsumexp(z_s) - <p_t, z_s>``: one logsumexp a view, and one product with the sum of the
    teacher's other views. The logits, the largest tensor of a step, are kept as they are for the
    backward pass; in float32 there is only one view at a time.

    Args:
        student: Logits, (S, B, K), of any precision; view v < T is the teacher's view v.
        teacher: Probabilities, (T, B, K), float32.
        temperature: The student's.
    """
    return _CrossView.apply(student, teacher, temperature)


class _CrossView(torch.autograd.Function):
    """Gradient of a pair in the student's logits: ``(softmax(z_s) - p_t) / temperature``."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        normalisers, loss = [], 0.0
        for view, (count, others) in zip(student, _others(student, teacher)):
            view = _precise(view) / temperature
            normalisers.append(view.logsumexp(dim=-1))
            loss = loss + (count * normalisers[-1] - torch.einsum("bk,bk->b", others, view)).mean()
        ctx.save_for_backward(student, teacher, torch.stack(normalisers))
        ctx.temperature = temperature
        return loss / num_pairs(len(student), len(teacher))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, normalisers = ctx.saved_tensors
        scale = num_pairs(len(student), len(teacher)) * student.shape[1] * ctx.temperature
        found = torch.empty_like(student)
        views = zip(found, student, normalisers, _others(student, teacher))
        for out, view, normaliser, (count, others) in views:
            softmax = (_precise(view) / ctx.temperature).sub_(normaliser[:, None]).exp_()
            out.copy_(softmax.mul_(count).sub_(others).mul_(gradient / scale))
        return found, None, None


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _others(student: Tensor, teacher: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For each student view how many teacher views it is compared with, and their sum (B, K)."""
    teacher = teacher.to(torch.promote_types(student.dtype, teacher.dtype))
    total = teacher.sum(dim=0)
    for view in range(len(student)):
        own = view < len(teacher)
        yield len(teacher) - own, total - teacher[view] if own else total


def num_pairs(views: int, teacher_views: int) -> int:
    """Pairs of a student's and a teacher's view that are not the same."""
    return teacher_views * views - min(teacher_views, views)
