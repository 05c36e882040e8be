"""Which patches an image hides: blocks, as BEiT's (2106.08254, section 2.3) and iBOT's."""

import math

import numpy as np

_ATTEMPTS = 10
"""Blocks that are drawn before an image is left with what it hides already."""
_LOG_RATIO = math.log(1 / 0.3)
"""Height over width of a block is drawn log-uniformly from 0.3 to 1 / 0.3."""


def draw_masks(
    rng: np.random.Generator,
    number: int,
    grid: tuple[int, int],
    *,
    mean: float,
    spread: float,
    images: float,
) -> np.ndarray:
    """Bool (number, rows, columns): the patches that are hidden.

    Args:
        rng: Draws.
        number: Images.
        grid: (rows, columns) of an image's patches.
        mean, spread: The share of a masked image is uniform in mean - spread … mean + spread
            (iBOT, section 4.1: 0.3 and 0.2), within 0 … 1, and is not exceeded.
        images: Probability that an image is masked at all (iBOT: 0.5).
    """
    masks = np.zeros((number, *grid), bool)
    masked = np.flatnonzero(rng.random(number) < images)
    shares = rng.uniform(mean - spread, mean + spread, len(masked)).clip(0, 1)
    for image, share in zip(masked.tolist(), shares.tolist()):
        fill_with_blocks(rng, masks[image], int(share * grid[0] * grid[1]))
    return masks


def fill_with_blocks(rng: np.random.Generator, mask: np.ndarray, number: int) -> None:
    """Hide up to ``number`` patches of an image in blocks, in place: bool (rows, columns).

    A block's area is uniform from a ninth of the largest square to what is left to hide. One that
    does not fit into the image, hides nothing new, or would hide too much is drawn again.
    """
    left = number
    while left > 0:
        hidden = _one_block(rng, mask, left)
        if not hidden:
            return
        left -= hidden


def _one_block(rng: np.random.Generator, mask: np.ndarray, most: int) -> int:
    """How many patches another block has hidden; 0 if none was found."""
    least = min((min(mask.shape) // 3) ** 2, most)
    for _ in range(_ATTEMPTS):
        area, ratio = rng.uniform(least, most), math.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if not (0 < height <= mask.shape[0] and 0 < width <= mask.shape[1]):
            continue
        top = rng.integers(mask.shape[0] - height, endpoint=True)
        left = rng.integers(mask.shape[1] - width, endpoint=True)
        block = mask[top : top + height, left : left + width]
        new = block.size - int(block.sum())
        if 0 < new <= most:
            block[...] = True
            return new
    return 0
