"""From uint8 images to what the stem's first convolution reads, in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from transreid_ssl.models.statistics import Statistics

SQUARES = 32
"""Of a program, in a row of an image."""


@triton.jit
def _fold(
    images, folded, height, width, rows, columns, image_step, channel_step, row_step, column_step,
    scale0, scale1, scale2, shift0, shift1, shift2, SQUARES: tl.constexpr,
):  # fmt: skip
    """A stretch of a row of squares of 2x2 pixels; 3 channels x 4 pixels, and 4 of zeros."""
    image, row = tl.program_id(0) // rows, tl.program_id(0) % rows
    column = tl.program_id(1) * SQUARES + tl.arange(0, SQUARES)
    part = tl.arange(0, 16)
    channel = part // 4
    y = 2 * row - 4 + (part % 4) // 2
    x = (2 * column - 4)[:, None] + (part % 2)[None, :]
    inside = ((y >= 0) & (y < height) & (channel < 3))[None, :] & (x >= 0) & (x < width)
    places = image.to(tl.int64) * image_step + (channel * channel_step + y * row_step)[None, :]
    values = tl.load(images + places + x * column_step, mask=inside, other=0).to(tl.float32)
    scale = tl.where(channel == 0, scale0, tl.where(channel == 1, scale1, scale2))
    shift = tl.where(channel == 0, shift0, tl.where(channel == 1, shift1, shift2))
    values = tl.where(inside, values * scale[None, :] + shift[None, :], 0.0)
    target = (image.to(tl.int64) * rows + row) * columns + column
    target = target[:, None] * 16 + part[None, :]
    tl.store(folded + target, values.to(folded.dtype.element_ty), mask=(column < columns)[:, None])


def fold_images(images: Tensor, statistics: Statistics, dtype: torch.dtype) -> Tensor:
    """uint8 (B, 3, H, W), H and W even and the memory in any order, to what
    ``stem.folded`` makes of the normalised images: (B, 16, H/2 + 3, W/2 + 3), channels last."""
    count, _, height, width = images.shape
    rows, columns = height // 2 + 3, width // 2 + 3
    folded = torch.empty((count, rows, columns, 16), device=images.device, dtype=dtype)
    scales = [1 / (255 * deviation) for deviation in statistics.std]
    shifts = [-mean / deviation for mean, deviation in zip(*statistics)]
    with torch.cuda.device_of(images):
        _fold[count * rows, triton.cdiv(columns, SQUARES)](
            images, folded, height, width, rows, columns, *images.stride(), *scales, *shifts,
            SQUARES=SQUARES,
        )  # fmt: skip
    return folded.permute(0, 3, 1, 2)
