"""A plain feature without any learning: colours in horizontal stripes."""

from collections.abc import Iterable

import cv2
import numpy as np

STRIPES = 6
HUE_BINS, SATURATION_BINS = 16, 8


def colour_histogram(images: Iterable[np.ndarray]) -> np.ndarray:
    """Histograms of hue and saturation in six stripes, top to bottom: unit float32 (N, 768).

    What any learned feature has to beat. Each stripe's joint histogram of 16 hues by 8 saturations
    sums to one; the square root makes the inner product of two features the Bhattacharyya
    coefficient of their histograms.

    Args:
        images: uint8 (H, W, 3) RGB, of any size; taken one by one, so a generator will do.
    """
    features = [_histogram(image) for image in images]
    return np.stack(features) if features else np.empty((0, STRIPES * HUE_BINS * SATURATION_BINS))


def _histogram(image: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    stripes = [
        cv2.calcHist([s], [0, 1], None, [HUE_BINS, SATURATION_BINS], [0, 180, 0, 256]).ravel()
        for s in np.array_split(hsv, STRIPES)
    ]
    counts = np.stack(stripes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return (np.sqrt(shares) / np.sqrt(STRIPES)).ravel().astype(np.float32)
