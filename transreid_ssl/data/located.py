"""Views that know where they lie in their image, for objectives that compare parts of a body."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transreid_ssl.data.images import resize


class LocatedViews(NamedTuple):
    """The views of one image with what was there before them."""

    views: list[list[np.ndarray]]
    """Groups of views as without geometry."""
    original: np.ndarray
    """The image before any augmentation, resized: uint8 (H, W, 3)."""
    boxes: np.ndarray
    """Crops of the V global views, float32 (V, 4): (top, left, height, width) as parts of the
    image's height and width."""
    flips: np.ndarray
    """Whether a global view is mirrored left to right, bool (V,)."""


def locate(
    views: list[list[np.ndarray]], image: np.ndarray, drawn: Sequence[Any], size: tuple[int, int]
) -> LocatedViews:
    """Add the geometry of global views, and the image itself, to views of it.

    Args:
        views: Groups of views.
        image: Their source, uint8 (H, W, 3), before its background was mixed.
        drawn: ``ViewParameters`` of the global views.
        size: (height, width) of ``original``.
    """
    height, width = image.shape[:2]
    boxes = np.array([view.box for view in drawn]) / (height, width, height, width)
    flips = np.array([view.flip for view in drawn], bool)
    return LocatedViews(views, resize(image, size), boxes.astype(np.float32), flips)
