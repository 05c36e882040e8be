"""What a score must not be mistaken for: how colourful, light, sharp, large or slim an image is."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from transreid_ssl.data import CorruptImage, Pool, decode
from transreid_ssl.data.images import sharpness
from transreid_ssl.machine import num_cores
from transreid_ssl.progress import progress

LOOKS = ("saturation", "brightness", "sharpness", "height", "aspect")
_FOLLOWS = 0.3
"""A rank correlation from which on a score is said to follow a look."""
_BLOCK = 4096
_ENOUGH = 40
"""Fewer images say nothing about a correlation of that size."""


def looks_of(image: np.ndarray) -> tuple[float, ...]:
    """The ``LOOKS`` of an RGB image uint8 (H, W, 3).

    Saturation and brightness (of HSV, in [0, 255]) are means of the middle half of the crop, where
    the person is; sharpness is the variance of the Laplacian of the grey image, aspect is H / W.
    """
    height, width = image.shape[:2]
    middle = image[height // 4 : height - height // 4, width // 4 : width - width // 4]
    _, saturation, brightness = cv2.mean(cv2.cvtColor(middle, cv2.COLOR_RGB2HSV))[:3]
    return saturation, brightness, sharpness(image), float(height), height / width


def measure_looks(pool: Pool, places: np.ndarray) -> np.ndarray:
    """``LOOKS`` float64 (M, 5) of the images at ``places`` int64 (M,); NaN where one is broken."""

    def look(place: int) -> tuple[float, ...]:
        try:
            return looks_of(decode(pool.read(place), pool.names[place]))
        except CorruptImage:
            return (np.nan,) * len(LOOKS)

    found = np.empty((len(places), len(LOOKS)))
    bar = progress(len(places), "images looked at", shown=len(places) > _BLOCK)
    with ThreadPoolExecutor(min(16, num_cores())) as executor, bar as tick:
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK].tolist()
            found[start : start + len(block)] = list(executor.map(look, block))
            tick(len(block))
    return found


def rank_correlations(scores: np.ndarray, looks: np.ndarray) -> dict[str, float]:
    """Spearman's correlation of scores (M,) with each look (M, 5) that is not the same for all."""
    from scipy.stats import spearmanr

    found = {}
    for name, values in zip(LOOKS, looks.T):
        both = np.isfinite(values) & np.isfinite(scores)
        if both.sum() >= _ENOUGH and np.ptp(values[both]) > 0 and np.ptp(scores[both]) > 0:
            found[name] = float(spearmanr(scores[both], values[both]).statistic)
    return found


def describe_correlations(found: dict[str, float]) -> str:
    """One line for people."""
    if not found:
        return "rank correlations: none, of too few images, equal scores or equal looks"
    listed = ", ".join(f"{name} {value:+.2f}" for name, value in found.items())
    follows = [name for name, value in found.items() if abs(value) >= _FOLLOWS]
    said = f"; the score follows {' and '.join(follows)}" if follows else ""
    return f"rank correlation with {listed}{said}"
