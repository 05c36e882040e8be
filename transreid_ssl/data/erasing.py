"""Random erasing: hide a random rectangle of a view, as if something stood before the person."""

import math
from statistics import NormalDist

import cv2
import numpy as np

from transreid_ssl.data.settings import RandomErasingConfig


class RandomErasing:
    """Callable (image uint8 (H, W, 3), rng) -> image; the given image is not changed.

    The rectangle's area is uniform within `area`, its height / width within `ratio` follows
    `ratio_law`, and it is drawn anew, up to `attempts` times, while it does not fit. Noise is drawn
    on bytes: for the usual statistics (mean and std 0.5) a third of it is clipped, so that its
    standard deviation after normalisation is 0.72 instead of 1, with nothing outside what an image
    can hold.
    """

    def __init__(self, config: RandomErasingConfig):
        self.config = config
        # One of 256 equally likely levels per random byte: 30 times faster than normal numbers.
        levels = [NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)]
        noise = np.array(config.mean) + np.array(config.std) * np.array(levels)[:, None]  # (256, 3)
        self._noise = np.clip(np.rint(noise * 255), 0, 255).astype(np.uint8)[None]
        self._colour = config.fill_colour()

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
        uniform = self.config.ratio_law == "uniform"
        for _ in range(self.config.attempts):
            area = rng.uniform(*self.config.area) * height * width
            if uniform:
                ratio = rng.uniform(*self.config.ratio)
            else:
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
        if self.config.fill == "noise":
            noise = np.frombuffer(rng.bytes(hidden.size), np.uint8).reshape(hidden.shape)
            hidden[:] = cv2.LUT(noise, self._noise)
        else:
            hidden[:] = self._colour
        return image
