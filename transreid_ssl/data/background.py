"""Putting the middle of a person crop before the background of another one.

Both views of an image share its background, so a network that compares views learns the place
before the person. On crops the person stands in the middle: a soft upright ellipse is kept, what is
outside it comes from another image of the pool, a different one for each view.
"""

from typing import NamedTuple

import cv2
import numpy as np


class Ellipse(NamedTuple):
    """The kept middle, in units of half the image's width or height."""

    half_width: float
    half_height: float
    centre: float
    """Horizontal, 0 in the middle of the image."""


def draw_ellipse(rng: np.random.Generator) -> Ellipse:
    """An ellipse about as wide as a person: half widths 0.45 to 0.8, nearly the whole height."""
    return Ellipse(rng.uniform(0.45, 0.8), rng.uniform(0.9, 1.2), rng.uniform(-0.12, 0.12))


def mix_background(image: np.ndarray, other: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    """``image`` inside the ellipse and ``other`` outside, with a soft edge.

    Args:
        image: uint8 (H, W, 3).
        other: uint8 of any size; it is stretched to that of ``image``.
        ellipse: From ``draw_ellipse``.

    Returns:
        A new uint8 (H, W, 3) array.
    """
    height, width = image.shape[:2]
    other = cv2.resize(other, (width, height), interpolation=cv2.INTER_LINEAR)
    across = np.abs(np.linspace(-1, 1, width, dtype=np.float32) - ellipse.centre)
    along = np.abs(np.linspace(-1, 1, height, dtype=np.float32))
    # High powers make the sides upright: a person is closer to a box than to an ellipse.
    distance = (across / ellipse.half_width) ** 3 + ((along / ellipse.half_height) ** 6)[:, None]
    kept = 1 / (1 + np.exp(np.clip(6 * (distance - 1), -30, 30)))  # (H, W), 1 on the person
    return cv2.blendLinear(image, other, kept, 1 - kept)
