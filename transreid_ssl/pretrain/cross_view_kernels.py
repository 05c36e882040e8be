"""DINO's cross-view loss as Triton kernels that read the logits once forward and once backward.

Nothing of float32 is as large as the logits: the teacher's probabilities are found anew from its
logits wherever they are wanted. A program takes one image and a stretch of the outputs, for all
views of the image, so that the teacher's share is read once for all of them.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from transreid_ssl.pretrain.cross_view import num_pairs

OUTPUTS = 4096
"""Of a program, at most."""


@triton.jit
def _teacher_rows(
    logits, centre, highest, sums, products, sharpness, num_outputs, stretches,
    OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Of a stretch of a row x of sharpened teacher logits: the largest value m, the sum of
    ``exp(x - m)``, and that of ``exp(x - m) * x``."""
    row, stretch = tl.program_id(0), tl.program_id(1)
    column = stretch * OUTPUTS + tl.arange(0, OUTPUTS)
    known = column < num_outputs
    values = tl.load(logits + row.to(tl.int64) * num_outputs + column, mask=known, other=0.0)
    values = (values.to(tl.float32) - tl.load(centre + column, mask=known, other=0.0)) * sharpness
    top = tl.max(tl.where(known, values, float("-inf")), 0)
    powers = tl.where(known, tl.exp(values - top), 0.0)
    target = row * stretches + stretch
    tl.store(highest + target, top)
    tl.store(sums + target, tl.sum(powers, 0))
    tl.store(products + target, tl.sum(powers * values, 0))


@triton.jit
def _probabilities(
    logits, centre, normalisers, view, image, images, column, known, sharpness, num_outputs
):
    """The teacher's, of one view of an image, over a stretch of the outputs."""
    row = view * images + image
    values = tl.load(logits + row.to(tl.int64) * num_outputs + column, mask=known, other=0.0)
    values = (values.to(tl.float32) - centre) * sharpness - tl.load(normalisers + row)
    return tl.where(known, tl.exp(values), 0.0)


@triton.jit
def _total(
    teacher, middle, normalisers, image, images, column, known, sharpness, num_outputs,
    TEACHER_VIEWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """The sum of the probabilities of all of the teacher's views of an image."""
    total = tl.zeros((OUTPUTS,), tl.float32)
    for view in tl.static_range(TEACHER_VIEWS):
        total += _probabilities(
            teacher, middle, normalisers, view, image, images, column, known, sharpness, num_outputs
        )
    return total


@triton.jit
def _student_rows(
    student, teacher, centre, teacher_normalisers, normalisers, products,
    sharpness, inverse_temperature, images, num_outputs, stretches,
    VIEWS: tl.constexpr, TEACHER_VIEWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Of a stretch of every view's row: logsumexp, and the product with the probabilities of the
    teacher's other views."""
    image, stretch = tl.program_id(0), tl.program_id(1)
    column = stretch * OUTPUTS + tl.arange(0, OUTPUTS)
    known = column < num_outputs
    middle = tl.load(centre + column, mask=known, other=0.0)
    total = _total(
        teacher, middle, teacher_normalisers, image, images, column, known, sharpness, num_outputs,
        TEACHER_VIEWS, OUTPUTS,
    )  # fmt: skip
    for view in tl.static_range(VIEWS):
        others = total
        if view < TEACHER_VIEWS:
            others = total - _probabilities(
                teacher, middle, teacher_normalisers, view, image, images, column, known,
                sharpness, num_outputs,
            )  # fmt: skip
        row = view * images + image
        values = tl.load(student + row.to(tl.int64) * num_outputs + column, mask=known, other=0.0)
        values = values.to(tl.float32) * inverse_temperature
        top = tl.max(tl.where(known, values, float("-inf")), 0)
        powers = tl.where(known, tl.exp(values - top), 0.0)
        tl.store(normalisers + row * stretches + stretch, top + tl.log(tl.sum(powers, 0)))
        tl.store(products + row * stretches + stretch, tl.sum(others * values, 0))


@triton.jit
def _student_gradient(
    student, teacher, centre, teacher_normalisers, normalisers, factor, found,
    sharpness, inverse_temperature, images, num_outputs,
    VIEWS: tl.constexpr, TEACHER_VIEWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """``factor * (count * softmax - others)`` for every view, as its logits lie."""
    image, stretch = tl.program_id(0), tl.program_id(1)
    column = stretch * OUTPUTS + tl.arange(0, OUTPUTS)
    known = column < num_outputs
    middle = tl.load(centre + column, mask=known, other=0.0)
    scale = tl.load(factor)
    total = _total(
        teacher, middle, teacher_normalisers, image, images, column, known, sharpness, num_outputs,
        TEACHER_VIEWS, OUTPUTS,
    )  # fmt: skip
    for view in tl.static_range(VIEWS):
        others = total
        count = TEACHER_VIEWS
        if view < TEACHER_VIEWS:
            others = total - _probabilities(
                teacher, middle, teacher_normalisers, view, image, images, column, known,
                sharpness, num_outputs,
            )  # fmt: skip
            count = TEACHER_VIEWS - 1
        row = view * images + image
        place = row.to(tl.int64) * num_outputs + column
        values = tl.load(student + place, mask=known, other=0.0)
        values = values.to(tl.float32) * inverse_temperature
        softmax = tl.exp(values - tl.load(normalisers + row))
        result = (count * softmax - others) * scale
        tl.store(found + place, result.to(found.dtype.element_ty), mask=known)


def fused_cross_view(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    num_crops: int,
    num_teacher_crops: int,
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor]:
    """DINO's loss, and the mean entropy of the teacher's output in nats: see ``DINOLoss``.

    Args:
        student: Logits (S·B, K), crop-major, of any precision; contiguous rows.
        teacher: Logits (T·B, K), likewise.
        centre: float32 (1, K).
    """
    rows, num_outputs = teacher.shape
    teacher = teacher.detach().contiguous()
    block, stretches = _stretches(num_outputs)
    highest, sums, products = teacher.new_empty((3, rows, stretches), dtype=torch.float32)
    with torch.cuda.device_of(teacher):
        _teacher_rows[rows, stretches](
            teacher, centre, highest, sums, products, 1 / teacher_temp, num_outputs, stretches,
            OUTPUTS=block,
        )  # fmt: skip
    normalisers = (highest + sums.log()).logsumexp(dim=1)
    mean_value = (products * (highest - normalisers[:, None]).exp()).sum(1)
    loss = _FusedCrossView.apply(
        student, teacher, centre, normalisers, num_crops, num_teacher_crops, 1 / student_temp,
        1 / teacher_temp,
    )  # fmt: skip
    return loss, (normalisers - mean_value).mean()


class _FusedCrossView(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, centre: Tensor, teacher_normalisers: Tensor,
        views: int, teacher_views: int, inverse_temperature: float, sharpness: float,
    ) -> Tensor:  # fmt: skip
        student = student.contiguous()
        images, num_outputs = len(student) // views, student.shape[1]
        block, stretches = _stretches(num_outputs)
        shape = (2, len(student), stretches)
        partial, products = student.new_empty(shape, dtype=torch.float32)
        with torch.cuda.device_of(student):
            _student_rows[images, stretches](
                student, teacher, centre, teacher_normalisers, partial, products, sharpness,
                inverse_temperature, images, num_outputs, stretches,
                VIEWS=views, TEACHER_VIEWS=teacher_views, OUTPUTS=block,
            )  # fmt: skip
        normalisers = partial.logsumexp(dim=1)
        ctx.save_for_backward(student, teacher, centre, teacher_normalisers, normalisers)
        ctx.sizes = images, views, teacher_views, inverse_temperature, sharpness
        by_view = normalisers.unflatten(0, (views, images)).mean(1)
        compared = teacher_views * by_view.sum() - by_view[:teacher_views].sum()
        return (compared - products.sum() / images) / num_pairs(views, teacher_views)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, centre, teacher_normalisers, normalisers = ctx.saved_tensors
        images, views, teacher_views, inverse_temperature, sharpness = ctx.sizes
        num_outputs = student.shape[1]
        block, stretches = _stretches(num_outputs)
        pairs = num_pairs(views, teacher_views)
        factor = (gradient.float() * (inverse_temperature / (pairs * images))).reshape(1)
        found = torch.empty_like(student)
        with torch.cuda.device_of(student):
            _student_gradient[images, stretches](
                student, teacher, centre, teacher_normalisers, normalisers, factor, found,
                sharpness, inverse_temperature, images, num_outputs,
                VIEWS=views, TEACHER_VIEWS=teacher_views, OUTPUTS=block,
            )  # fmt: skip
        return (found,) + (None,) * 7


def _stretches(num_outputs: int) -> tuple[int, int]:
    """Outputs of a program, a power of two, and how many stretches of so many there are."""
    block = min(OUTPUTS, triton.next_power_of_2(num_outputs))
    return block, triton.cdiv(num_outputs, block)
