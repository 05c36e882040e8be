"""Random erasing: hide a random rectangle of a view, as if something stood before the person."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import cv2
import numpy as np

from transreid_ssl.errors import UserError

_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomErasingConfig:
    """Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020), section 3."""

    probability: float = 0.5
    """Part of the images that lose a rectangle; 0 turns erasing off."""
    area: tuple[float, float] = (0.02, 1 / 3)
    """Smallest and largest area of the rectangle as a part of the image (LUPerson's MoCo: 0.6)."""
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Smallest and largest height / width of the rectangle, drawn log-uniformly."""
    fill: Literal["noise", "mean"] = "noise"
    """"noise": random values that are close to N(0, 1) after normalisation; "mean": the colour
    `mean`, which is 0 after it."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of the later normalisation (RGB, 0..1): give the same one as the model's."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of the later normalisation (RGB, 0..1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"erasing probability is {self.probability}: give a part from 0 to 1")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(
                f"erasing area is {self.area}: give two parts of the image, 0 < a <= b <= 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise UserError(f"erasing ratio is {self.ratio}: give two sides' ratios, 0 < a <= b")
        if self.fill not in ("noise", "mean"):
            raise UserError(f'erasing fill is "{self.fill}": give "noise" or "mean"')


class RandomErasing:
    """Callable (image uint8 (H, W, 3), rng) -> image; the given image is not changed.

    The rectangle's area is uniform within `area`, its height / width log-uniform within `ratio`,
    and it is drawn anew, up to ten times, while it does not fit. Noise is drawn on bytes: for the
    usual statistics (mean and std 0.5) a third of it is clipped, so that its standard deviation
    after normalisation is 0.72 instead of 1, with nothing outside what an image can hold.
    """

    def __init__(self, config: RandomErasingConfig):
        self.config = config
        # One of 256 equally likely levels per random byte: 30 times faster than normal numbers.
        levels = [NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)]
        noise = np.array(config.mean) + np.array(config.std) * np.array(levels)[:, None]  # (256, 3)
        self._noise = np.clip(np.rint(noise * 255), 0, 255).astype(np.uint8)[None]
        self._colour = np.clip(np.rint(np.array(config.mean) * 255), 0, 255).astype(np.uint8)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.config.probability:
            return image
        height, width = image.shape[:2]
        box = self.sample_box(rng, height, width)
        return image if box is None else self.erase(image, box, rng)

    def sample_box(
        self, rng: np.random.Generator, height: int, width: int
    ) -> tuple[int, int, int, int] | None:
        """Draw a rectangle (top, left, height, width) smaller than the image, None if none fits."""
        log_low, log_high = (math.log(ratio) for ratio in self.config.ratio)
        for _ in range(_ATTEMPTS):
            area = rng.uniform(*self.config.area) * height * width
            ratio = math.exp(rng.uniform(log_low, log_high))
            box_height, box_width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < box_height < height and 0 < box_width < width:
                top = int(rng.integers(height - box_height + 1))
                left = int(rng.integers(width - box_width + 1))
                return top, left, box_height, box_width
        return None

    def erase(
        self, image: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator
    ) -> np.ndarray:
        """A copy of the image with the rectangle (top, left, height, width) filled."""
        top, left, height, width = box
        image = image.copy()
        hidden = image[top : top + height, left : left + width]
        if self.config.fill == "mean":
            hidden[:] = self._colour
        else:
            noise = np.frombuffer(rng.bytes(hidden.size), np.uint8).reshape(hidden.shape)
            hidden[:] = cv2.LUT(noise, self._noise)
        return image
