"""Random views of a person image: multi-crop for pre-training, the ReID recipe for fine-tuning.

The multi-crop views have the distribution of the reference recipe (DINO, Caron et al. 2021, as
TransReID-SSL ran it on person crops with torchvision and Pillow) at a fraction of its cost: colours
are changed where a view has the fewest pixels, that is after shrinking and before enlarging.
"""

from collections.abc import Callable
from itertools import permutations, starmap
from typing import NamedTuple

import cv2
import numpy as np

from transreid_ssl.data import colour
from transreid_ssl.data.background import draw_ellipse, mix_background
from transreid_ssl.data.boxes import sample_boxes
from transreid_ssl.data.erasing import RandomErasing
from transreid_ssl.data.images import resize
from transreid_ssl.data.located import LocatedViews, locate
from transreid_ssl.data.settings import MultiCropConfig, ReIDAugmentConfig


class ViewParameters(NamedTuple):
    """All that was drawn for one view, in pixels of the source image."""

    size: tuple[int, int]
    """(height, width) of the view."""
    box: tuple[int, int, int, int]
    """The crop in the source image: (top, left, height, width)."""
    flip: bool
    """Whether the view is mirrored left to right."""
    colours: tuple[tuple[int, float], ...]
    """The jitter's operations in their order, as (operation of `data.colour`, factor)."""
    grayscale: bool
    """Whether the view is grey."""
    blur_sigma: float
    """Standard deviation of the blur in pixels of the view, 0 without blur."""
    solarize: bool
    """Whether values from 128 on are inverted."""
    erase_box: tuple[int, int, int, int] | None
    """The erased rectangle in the view: (top, left, height, width)."""
    erase_seed: int
    """Seed of the noise in it."""


class MultiCrop:
    """Callable (image uint8 (H, W, 3) RGB, rng, another, mate) -> [[global views], [local views]].

    Every view is a contiguous uint8 array (height, width, 3). A group without views is left out.
    `sample` draws the geometry and colours alone, `apply` makes one view of them: patches of two
    views can be brought into line through their boxes. ``another`` gives a random other image; it
    is asked only where backgrounds are mixed. The second, fourth, ... of all views are cut from
    ``mate``, an image of any size, if there is one. With ``config.original`` the result is a
    ``LocatedViews``; the views in it are the same.
    """

    def __init__(self, config: MultiCropConfig):
        self.config = config
        num_global, num_local = config.num_global, config.num_local
        self._num_views = num_global + num_local
        self._groups = [slice(0, num_global), slice(num_global, self._num_views)]
        self._sizes = [config.global_size] * num_global + [config.local_size] * num_local
        scales = [config.global_scale] * num_global + [config.local_scale] * num_local
        self._scales = np.array(scales)  # (V, 2)
        self._blur = np.array(
            _of_each_view(config.global_blur, num_global) + [config.local_blur] * num_local
        )
        self._solarize = np.array(
            _of_each_view(config.global_solarize, num_global) + [0.0] * num_local
        )
        ranges = (config.brightness, config.contrast, config.saturation, config.hue)
        self._jitter_ranges = config.jitter_strength * np.array(ranges)
        self._orders = list(permutations(np.flatnonzero(self._jitter_ranges).tolist()))
        self._enlarging = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}[
            config.interpolation
        ]
        self._erasing = RandomErasing(config.erasing)

    def __call__(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        another: Callable[[], np.ndarray] | None = None,
        mate: np.ndarray | None = None,
    ) -> list[list[np.ndarray]] | LocatedViews:
        _check_image(image)
        drawn = self.sample(rng, *image.shape[:2])
        sources = [image] * len(drawn)
        if mate is not None:
            _check_image(mate)
            drawn[1::2] = self.sample(rng, *mate.shape[:2])[1::2]
            sources[1::2] = [mate] * len(sources[1::2])
        if self.config.background:
            if another is None:
                raise ValueError("background mixing needs other images: pass another")
            for view in np.flatnonzero(rng.random(self.config.num_global) < self.config.background):
                sources[view] = mix_background(sources[view], another(), draw_ellipse(rng))
        views = [self.apply(source, view) for source, view in zip(sources, drawn)]
        groups = [views[group] for group in self._groups if views[group]]
        if not self.config.original:
            return groups
        return locate(groups, image, drawn[self._groups[0]], self.config.global_size)

    def sample(self, rng: np.random.Generator, height: int, width: int) -> list[ViewParameters]:
        """Draw the parameters of all views of an image, the global ones first."""
        number = self._num_views
        boxes = self._sample_boxes(rng, height, width)
        flips, grays, blurs, solarizes = rng.random((4, number))
        sigmas = rng.uniform(*self.config.blur_sigma, number) * (blurs < self._blur)
        drawn = zip(
            self._sizes,
            boxes,
            (flips < self.config.flip).tolist(),
            self._sample_jitter(rng),
            (grays < self.config.grayscale).tolist(),
            sigmas.tolist(),
            (solarizes < self._solarize).tolist(),
            *self._sample_erasing(rng),
        )
        return list(starmap(ViewParameters, drawn))

    def _sample_boxes(
        self, rng: np.random.Generator, height: int, width: int
    ) -> list[tuple[int, int, int, int]]:
        """The crop of every view, (top, left, height, width): of the image, or of its area."""
        scales, ratio, areas = self._scales, self.config.ratio, self.config.areas
        if not areas:
            return sample_boxes(rng, height, width, scales, ratio)
        num_global = self.config.num_global
        boxes = sample_boxes(rng, height, width, scales[:num_global], ratio)
        step = height / (areas + 1)  # each area overlaps half of the next
        high = max(1, int(2 * step))
        for view, box in enumerate(sample_boxes(rng, high, width, scales[num_global:], ratio)):
            boxes.append((box[0] + int(view % areas * step), *box[1:]))
        return boxes

    def _sample_jitter(self, rng: np.random.Generator) -> list[tuple[tuple[int, float], ...]]:
        """Draw the operations of every view, none for those that are not jittered."""
        number, ranges = self._num_views, self._jitter_ranges
        factors = rng.uniform(-ranges, ranges, (number, 4))
        factors[:, : colour.HUE] = np.maximum(1 + factors[:, : colour.HUE], 0)
        jittered = rng.random(number) < self.config.jitter
        orders = rng.integers(len(self._orders), size=number)
        return [
            tuple([(kind, factor[kind]) for kind in self._orders[order]]) if jitter else ()
            for factor, jitter, order in zip(factors.tolist(), jittered.tolist(), orders.tolist())
        ]

    def _sample_erasing(self, rng: np.random.Generator) -> tuple[list, list[int]]:
        """Draw the erased boxes and the seeds of their noise."""
        number, probability = self._num_views, self.config.erasing.probability
        if probability == 0:
            return [None] * number, [0] * number
        erased = (rng.random(number) < probability).tolist()
        boxes = [
            self._erasing.sample_box(rng, *size) if erase else None
            for erase, size in zip(erased, self._sizes)
        ]
        return boxes, rng.integers(2**32, size=number).tolist()

    def apply(self, image: np.ndarray, view: ViewParameters) -> np.ndarray:
        """Make one view, uint8 (*view.size, 3), of an image; the image is not changed."""
        top, left, height, width = view.box
        pixels = image[top : top + height, left : left + width]
        smallest = min(height, view.size[0]), min(width, view.size[1])
        if (height, width) != smallest:
            pixels = cv2.resize(pixels, smallest[::-1], interpolation=cv2.INTER_AREA)
        if view.flip:
            pixels = cv2.flip(pixels, 1)
        pixels = colour.adjust_colours(pixels, view.colours)
        if view.grayscale:  # one channel from here on is a third of the work
            pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        # Always, as a resize to the same size also makes the copy of an untouched crop.
        pixels = cv2.resize(pixels, view.size[::-1], interpolation=self._enlarging)
        if view.blur_sigma > 0:
            pixels = colour.blur(pixels, view.blur_sigma)
        if view.solarize:
            pixels = colour.solarise(pixels)
        if view.grayscale:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        if view.erase_box is not None:
            noise_rng = np.random.default_rng(view.erase_seed)
            pixels = self._erasing.erase(pixels, view.erase_box, noise_rng)
        return pixels


def _of_each_view(values: tuple[float, ...], number: int) -> list[float]:
    """The value of every view: the last one stands for all that follow."""
    return [values[min(view, len(values) - 1)] for view in range(number)]


class ReIDAugment:
    """Callable (image uint8 (H, W, 3) RGB, rng, another) -> contiguous uint8 (*size, 3).

    Resize, flip, pad with black and crop, erase (Luo et al., "Bag of Tricks and a Strong Baseline
    for Deep Person Re-identification", 2019). ``another`` gives a random other image; it is asked
    only where backgrounds are mixed.
    """

    def __init__(self, config: ReIDAugmentConfig):
        self.config = config
        self._erasing = RandomErasing(config.erasing)

    def __call__(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        another: Callable[[], np.ndarray] | None = None,
    ) -> np.ndarray:
        _check_image(image)
        if self.config.background and rng.random() < self.config.background:
            if another is None:
                raise ValueError("background mixing needs other images: pass another")
            image = mix_background(image, another(), draw_ellipse(rng))
        flipped = rng.random() < self.config.flip
        shift = rng.integers(-self.config.padding, self.config.padding, size=2, endpoint=True)
        view = resize(image, self.config.size, self.config.interpolation)
        if flipped:
            view = cv2.flip(view, 1)
        return self._erasing(shift_image(view, *shift.tolist()), rng)


def shift_image(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move an image (H, W, C) by a number of pixels; what appears at the edges is 0 (black).

    Padding on every side and cropping at a random place are one such move.
    """
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    moved[max(down, 0) : height + down, max(right, 0) : width + right] = image[
        max(-down, 0) : height - down, max(-right, 0) : width - right
    ]
    return moved


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
