"""Boxes of random crops, drawn for all views of an image at once."""

import math

import numpy as np

_ATTEMPTS = 10


def sample_boxes(
    rng: np.random.Generator,
    height: int,
    width: int,
    scales: np.ndarray,
    ratio: tuple[float, float],
) -> list[tuple[int, int, int, int]]:
    """Draw one crop box (top, left, height, width) for every row of `scales`, float (V, 2).

    Areas are uniform within the scale and width / height is log-uniform. The first of ten drawn
    boxes that fits is taken; otherwise the largest centred box whose ratio is allowed.
    """
    number = len(scales)
    areas = rng.uniform(scales[:, :1], scales[:, 1:], (number, _ATTEMPTS)) * (height * width)
    ratios = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (number, _ATTEMPTS)))
    widths = np.rint(np.sqrt(areas * ratios))
    heights = np.rint(np.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, view = fits.argmax(1), np.arange(number)
    offsets = rng.random((2, number))
    tops = offsets[0] * (height - heights[view, first] + 1)
    lefts = offsets[1] * (width - widths[view, first] + 1)
    drawn = np.stack([tops, lefts, heights[view, first], widths[view, first]], 1).astype(int)
    centre = _centre_box(height, width, ratio)
    found = fits[view, first].tolist()
    return [tuple(box) if ok else centre for box, ok in zip(drawn.tolist(), found)]


def _centre_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest centred box whose width / height is within `ratio`."""
    box_height = max(1, min(height, round(width / ratio[0])))
    box_width = max(1, min(width, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
