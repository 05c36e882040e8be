"""The passes of ``norm_relu`` over a map, as Triton kernels for channels-last maps.

A map (B, C, H, W) lies in memory as B x P rows of C channels, P = H x W pixels. A program takes a
tile of pixels of one image and of channels, holds it in registers, and is done with it. The output,
and the gradient that comes back for it, may lie patch by patch instead, as the product with patch
weights wants them: then nothing has to be moved.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 128
"""Of a tile."""
CHANNELS = 64
"""Of a tile, at most."""


@triton.jit
def _tile(pixels, channels, tiles, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's image, tile and rows; the channels; and what there is of them."""
    image, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    row = tile * PIXELS + tl.arange(0, PIXELS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return image, tile, row, column, (row < pixels)[:, None] & (column < channels)[None, :]


@triton.jit
def _places(image, row, column, pixels, channels):
    """Where a tile lies in a map."""
    return (image.to(tl.int64) * pixels + row)[:, None] * channels + column[None, :]


@triton.jit
def _by_patch(row, width, PATCH: tl.constexpr):
    """The rows of pixels in a map that lies patch by patch."""
    if PATCH == 0:
        return row
    y, x = row // width, row % width
    patch = (y // PATCH) * (width // PATCH) + x // PATCH
    return patch * PATCH * PATCH + (y % PATCH) * PATCH + x % PATCH


@triton.jit
def _of_image(table, image, column, channels):
    """An image's values of a table (B, C), for every pixel."""
    return tl.load(table + image * channels + column, mask=column < channels, other=0.0)[None, :]


@triton.jit
def _moments(
    x, means, spreads, pixels, channels, tiles, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Of every tile the mean, and the sum of squared differences from it: (B, tiles, C)."""
    image, tile, row, column, exists = _tile(pixels, channels, tiles, PIXELS, CHANNELS)
    places = _places(image, row, column, pixels, channels)
    values = tl.load(x + places, mask=exists, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / tl.minimum(PIXELS, pixels - tile * PIXELS)
    apart = tl.where(exists, values - mean[None, :], 0.0)
    target = (image * tiles + tile) * channels + column
    tl.store(means + target, mean, mask=column < channels)
    tl.store(spreads + target, tl.sum(apart * apart, 0), mask=column < channels)


@triton.jit
def _moments_of_images(
    means, spreads, mean, variance, pixels, channels, tiles,
    PIXELS: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and variance of every image's channels, (B, C), from those of its tiles."""
    image = tl.program_id(0)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    tile = tl.arange(0, TILES)
    exists = (tile < tiles)[:, None] & (column < channels)[None, :]
    places = (image * tiles + tile)[:, None] * channels + column[None, :]
    sizes = tl.minimum(PIXELS, pixels - tile * PIXELS).to(tl.float32)[:, None]
    values = tl.load(means + places, mask=exists, other=0.0)
    middle = tl.sum(tl.where(exists, values * sizes, 0.0), 0) / pixels
    apart = values - middle[None, :]
    spread = tl.load(spreads + places, mask=exists, other=0.0) + sizes * apart * apart
    target = image * channels + column
    tl.store(mean + target, middle, mask=column < channels)
    spread = tl.sum(tl.where(exists, spread, 0.0), 0) / pixels
    tl.store(variance + target, spread, mask=column < channels)


@triton.jit
def _apply(
    x, scale, shift, output, width, pixels, channels, tiles,
    PATCH: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``relu(scale * x + shift)``."""
    image, _, row, column, exists = _tile(pixels, channels, tiles, PIXELS, CHANNELS)
    places = _places(image, row, column, pixels, channels)
    values = tl.load(x + places, mask=exists, other=0.0).to(tl.float32)
    values = values * _of_image(scale, image, column, channels)
    values = tl.maximum(values + _of_image(shift, image, column, channels), 0.0)
    places = _places(image, _by_patch(row, width, PATCH), column, pixels, channels)
    tl.store(output + places, values.to(output.dtype.element_ty), mask=exists)


@triton.jit
def _map_and_gradient(
    x, gradient, scale, shift, image, row, column, exists, width, pixels, channels,
    PATCH: tl.constexpr,
):  # fmt: skip
    """A tile of the map, and the gradient that ReLU lets through, both float32."""
    places = _places(image, row, column, pixels, channels)
    values = tl.load(x + places, mask=exists, other=0.0).to(tl.float32)
    places = _places(image, _by_patch(row, width, PATCH), column, pixels, channels)
    found = tl.load(gradient + places, mask=exists, other=0.0).to(tl.float32)
    before = values * _of_image(scale, image, column, channels)
    before += _of_image(shift, image, column, channels)
    return values, tl.where(before > 0, found, 0.0)


@triton.jit
def _sums(
    gradient, x, scale, shift, mean, inverse, totals, products, width, pixels, channels, tiles,
    PATCH: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of every tile, (B, tiles, C), the sum of the gradient that ReLU lets through, and of its
    product with the normalised map."""
    image, tile, row, column, exists = _tile(pixels, channels, tiles, PIXELS, CHANNELS)
    values, found = _map_and_gradient(
        x, gradient, scale, shift, image, row, column, exists, width, pixels, channels, PATCH
    )
    values = values - _of_image(mean, image, column, channels)
    values = values * _of_image(inverse, image, column, channels)
    target = (image * tiles + tile) * channels + column
    tl.store(totals + target, tl.sum(found, 0), mask=column < channels)
    tl.store(products + target, tl.sum(found * values, 0), mask=column < channels)


@triton.jit
def _combine(
    gradient, x, scale, shift, slope, constant, output, width, pixels, channels, tiles,
    PATCH: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``scale * gradient + slope * x + constant``, of the gradient that ReLU lets through."""
    image, _, row, column, exists = _tile(pixels, channels, tiles, PIXELS, CHANNELS)
    values, found = _map_and_gradient(
        x, gradient, scale, shift, image, row, column, exists, width, pixels, channels, PATCH
    )
    result = found * _of_image(scale, image, column, channels)
    result += values * _of_image(slope, image, column, channels)
    result += _of_image(constant, image, column, channels)
    places = _places(image, row, column, pixels, channels)
    tl.store(output + places, result.to(output.dtype.element_ty), mask=exists)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each image's channels, float32 (B, C)."""
    (images, channels), pixels = x.shape[:2], x.shape[2:].numel()
    means, spreads = _per_tile(_moments, x, x)
    mean, variance = torch.empty((2, images, channels), device=x.device)
    tiles = means.shape[1]
    with torch.cuda.device_of(x):
        _moments_of_images[images, triton.cdiv(channels, 16)](
            means, spreads, mean, variance, pixels, channels, tiles,
            PIXELS=PIXELS, TILES=triton.next_power_of_2(tiles), CHANNELS=16,
        )  # fmt: skip
    return mean, variance


def apply(x: Tensor, scale: Tensor, shift: Tensor, patch: int) -> Tensor:
    """``relu(scale * x + shift)``, as a map or patch by patch."""
    output = torch.empty_like(x)
    _launch(_apply, x, x, scale, shift, output, x.shape[3], PATCH=patch)
    if not patch:
        return output
    images, channels, height, width = x.shape
    shape = images, height // patch, width // patch, patch * patch * channels
    return output.permute(0, 2, 3, 1).reshape(shape)


def sums(
    gradient: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, inverse: Tensor,
    patch: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sums over each image, (B, C): of the gradient that ReLU lets through, and of its product with
    the normalised map."""
    arguments = gradient, x, scale, shift, mean, inverse
    totals, products = _per_tile(_sums, x, *arguments, after=(x.shape[3],), PATCH=patch)
    return totals.sum(1), products.sum(1)


def combine(
    gradient: Tensor, x: Tensor, scale: Tensor, shift: Tensor, slope: Tensor,
    constant: Tensor, patch: int,
) -> Tensor:  # fmt: skip
    """``scale * gradient + slope * x + constant``, of the gradient that ReLU lets through."""
    output = torch.empty_like(x)
    arguments = gradient, x, scale, shift, slope, constant, output, x.shape[3]
    _launch(_combine, x, *arguments, PATCH=patch)
    return output


def _per_tile(
    kernel: triton.JITFunction, x: Tensor, *tensors: Tensor, after: tuple[int, ...] = (), **options
) -> tuple[Tensor, Tensor]:
    """The two tables (B, tiles, C) of float32 that a kernel reduces a map to."""
    shape = (len(x), triton.cdiv(x.shape[2:].numel(), PIXELS), x.shape[1])
    tables = tuple(torch.empty(shape, device=x.device) for _ in range(2))
    _launch(kernel, x, *tensors, *tables, *after, **options)
    return tables


def _launch(kernel: triton.JITFunction, x: Tensor, *arguments: Tensor | int, **options) -> None:
    """A program for every tile of the map ``x``."""
    images, channels = x.shape[:2]
    pixels = x.shape[2:].numel()
    block = min(CHANNELS, triton.next_power_of_2(channels))
    tiles = triton.cdiv(pixels, PIXELS)
    grid = images * tiles, triton.cdiv(channels, block)
    with torch.cuda.device_of(x):  # Triton runs on the current device, whatever it is given
        kernel[grid](*arguments, pixels, channels, tiles, PIXELS=PIXELS, CHANNELS=block, **options)
