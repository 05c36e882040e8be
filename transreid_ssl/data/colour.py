"""Colour operations on uint8 RGB images (H, W, 3): jitter, greyscale, blur and solarisation.

They follow Pillow's definitions, as the pre-training recipes did, and differ by rounding only
(Pillow cuts decimals off after every operation; here they are rounded). No operation changes the
image it is given.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

# Luma of ITU-R BT.601, the grey value that contrast, saturation and greyscale refer to.
_LUMA = np.array([0.299, 0.587, 0.114])
_IDENTITY = np.eye(3)
_GREY = np.tile(_LUMA, (3, 1))


def adjust_colours(image: np.ndarray, operations: Sequence[tuple[int, float]]) -> np.ndarray:
    """Apply (operation, factor) pairs in their order; without any, the image itself is returned."""
    for operation, factor in operations:
        image = _ADJUSTMENTS[operation](image, factor)
    return image


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all values by a factor from 0; 1 changes nothing."""
    return cv2.convertScaleAbs(image, alpha=factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distance from the image's mean grey value; 1 changes nothing."""
    red, green, blue, _ = cv2.mean(image)
    mean_grey = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    matrix = np.empty((3, 4))
    matrix[:, :3] = factor * _IDENTITY
    matrix[:, 3] = (1 - factor) * mean_grey
    return cv2.transform(image, matrix)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply every pixel's distance from its grey value; 1 changes nothing, 0 is greyscale."""
    return cv2.transform(image, factor * _IDENTITY + (1 - factor) * _GREY)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by a part of the full circle (-0.5..0.5), keeping HSV saturation and value."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # hue in 256 steps, so uint8 wraps around
    hsv[..., 0] += np.uint8(int(shift * 256) % 256)  # whole steps towards 0, as Pillow's
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_ADJUSTMENTS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with Pillow's approximation of a Gaussian of standard deviation `sigma` (pixels)."""
    kernel = _blur_kernel(round(sigma, 2))
    if len(kernel) == 1:
        return image
    return cv2.sepFilter2D(image, cv2.CV_8U, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=1024)
def _blur_kernel(sigma: float) -> np.ndarray:
    """Three passes of a box whose two outermost weights give it the variance sigma² / 3.

    A sampled Gaussian would lose most of its variance below a sigma of 0.5, where a fifth of the
    drawn blurs lie. (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended
    box filtering", 2011.)
    """
    variance = sigma**2 / 3
    radius = 0  # of the widest box of 2 * radius + 1 equal weights that is not too wide
    while (radius + 1) * (radius + 2) / 3 <= variance:
        radius += 1
    width = 2 * radius + 1
    edge = width * (radius * (radius + 1) / 3 - variance) / (2 * (variance - (radius + 1) ** 2))
    box = np.array([edge, *[1.0] * width, edge]) / (width + 2 * edge)
    kernel = np.convolve(np.convolve(box, box), box)
    # OpenCV filters bytes with 8-bit weights; unless these sum to 256, the brightness changes.
    weights = np.rint(kernel * 256)
    weights[len(weights) // 2] += 256 - weights.sum()
    return (np.trim_zeros(weights) / 256).astype(np.float32)


def solarise(image: np.ndarray) -> np.ndarray:
    """Invert the values from 128 on; the smaller of a value and its inverse is just that."""
    return np.minimum(image, ~image)
