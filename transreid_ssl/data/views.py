"""Random views of a person image: multi-crop for pre-training, the ReID recipe for fine-tuning.

The multi-crop views have the distribution of the reference recipe (DINO, Caron et al. 2021, as
TransReID-SSL ran it on person crops with torchvision and Pillow) at a fraction of its cost: colours
are changed where a view has the fewest pixels, that is after shrinking and before enlarging.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, starmap
from typing import NamedTuple

import cv2
import numpy as np

from transreid_ssl.data import colour
from transreid_ssl.data.background import draw_ellipse, mix_background
from transreid_ssl.data.boxes import sample_boxes
from transreid_ssl.data.erasing import RandomErasing, RandomErasingConfig
from transreid_ssl.data.images import Interpolation, resize
from transreid_ssl.data.located import LocatedViews, locate
from transreid_ssl.errors import UserError, check_ranges


@dataclass(frozen=True)
class MultiCropConfig:
    """Views of one image; the defaults are those of TransReID-SSL's DINO.

    Settings given for each global view (blur, solarisation) name the first, the second, ...; the
    last one also stands for all views after it.
    """

    global_size: tuple[int, int] = (256, 128)
    """(height, width) of the global views, in pixels."""
    local_size: tuple[int, int] = (128, 64)
    """(height, width) of the local views, in pixels."""
    num_global: int = 2
    """Global views of each image."""
    num_local: int = 8
    """Local views of each image; 0 leaves the group of local views out."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Area of a global crop as a part of the image. A crop that does not fit is drawn again, so
    that of upright images (2:1) and a ratio from 3/4 no crop is larger than two thirds."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Area of a local crop as a part of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of a crop in the image, drawn log-uniformly. Nearly square crops are squashed
    into the upright views, as the reference recipe does; (0.4, 0.6) would keep proportions."""
    interpolation: Interpolation = "cubic"
    """How a crop is enlarged, after sides that shrink were averaged: "cubic" (DINO) or "linear"
    (LUPerson's MoCo)."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    jitter: float = 0.8
    """Probability of colour jitter: brightness, contrast, saturation and hue in a random order."""
    jitter_strength: float = 1.0
    """Multiplies the four ranges below."""
    brightness: float = 0.4
    """Brightness is multiplied by a factor in 1 - value .. 1 + value (not below 0)."""
    contrast: float = 0.4
    """Contrast around the view's mean grey is multiplied by 1 - value .. 1 + value."""
    saturation: float = 0.2
    """The distance from grey is multiplied by 1 - value .. 1 + value."""
    hue: float = 0.1
    """The hue is turned by -value .. value of the full circle; 0.5 reaches every hue."""
    grayscale: float = 0.2
    """Probability of a greyscale view."""
    global_blur: tuple[float, ...] = (1.0, 0.1)
    """Probability of blur for the first, the second, ... global view."""
    local_blur: float = 0.5
    """Probability of blur for a local view."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels of the view."""
    global_solarize: tuple[float, ...] = (0.0, 0.2)
    """Probability of solarisation (values from 128 on are inverted) for each global view."""
    background: float = 0.0
    """Probability that a global view's background comes from another image (not in the paper). It
    keeps a network from comparing places instead of persons, which small runs do first."""
    erasing: RandomErasingConfig = RandomErasingConfig(probability=0)
    """Random erasing of every view, after all else (LUPerson's MoCo: 0.5 with area to 0.6)."""
    original: bool = False
    """Also give the image without augmentation, resized to `global_size`, and where each global
    view lies in it; recipes whose objective compares parts of a body set it themselves."""

    def __post_init__(self) -> None:
        check_ranges(
            self, num_global=(1, None), num_local=(0, None), global_size=(1, None),
            local_size=(1, None), flip=(0, 1), jitter=(0, 1), grayscale=(0, 1), background=(0, 1),
            global_blur=(0, 1), local_blur=(0, 1), global_solarize=(0, 1),
            jitter_strength=(0, None), brightness=(0, None), contrast=(0, None),
            saturation=(0, None), hue=(0, None),
        )  # fmt: skip
        for name in ("global_blur", "global_solarize"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty: give a probability for each global view")
        for name in ("global_scale", "local_scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name.endswith("scale") and high > 1):
                raise UserError(
                    f"{name} is {(low, high)}: give 0 < smallest <= largest (scale: <= 1)"
                )
        if self.hue * self.jitter_strength > 0.5:
            raise UserError(
                f"hue * jitter_strength is {self.hue * self.jitter_strength:g}: give at most 0.5,"
                " which reaches every hue"
            )


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
    """Callable (image uint8 (H, W, 3) RGB, rng, another) -> [[global views], [local views]].

    Every view is a contiguous uint8 array (height, width, 3). A group without views is left out.
    `sample` draws the geometry and colours alone, `apply` makes one view of them: patches of two
    views can be brought into line through their boxes. ``another`` gives a random other image; it
    is asked only where backgrounds are mixed. With ``config.original`` the result is a
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
    ) -> list[list[np.ndarray]] | LocatedViews:
        _check_image(image)
        drawn = self.sample(rng, *image.shape[:2])
        sources = [image] * len(drawn)
        if self.config.background:
            if another is None:
                raise ValueError("background mixing needs other images: pass another")
            for view in np.flatnonzero(rng.random(self.config.num_global) < self.config.background):
                sources[view] = mix_background(image, another(), draw_ellipse(rng))
        views = [self.apply(source, view) for source, view in zip(sources, drawn)]
        groups = [views[group] for group in self._groups if views[group]]
        if not self.config.original:
            return groups
        return locate(groups, image, drawn[self._groups[0]], self.config.global_size)

    def sample(self, rng: np.random.Generator, height: int, width: int) -> list[ViewParameters]:
        """Draw the parameters of all views of an image, the global ones first."""
        number = self._num_views
        boxes = sample_boxes(rng, height, width, self._scales, self.config.ratio)
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


@dataclass(frozen=True)
class ReIDAugmentConfig:
    """Supervised fine-tuning; the defaults are those of TransReID-SSL but for `interpolation`."""

    size: tuple[int, int] = (256, 128)
    """(height, width) of the training images, in pixels."""
    interpolation: Interpolation = "linear"
    """How images are resized: "cubic" is Pillow's bicubic, sharper, as the authors of TransReID-SSL
    and LUPerson resize what they train on."""
    flip: float = 0.5
    """Probability of a left-right flip."""
    padding: int = 10
    """Black pixels added on every side before a random crop back to `size`; 0 turns it off."""
    erasing: RandomErasingConfig = RandomErasingConfig()
    """Random erasing at the end; give its mean and std as the model's. It helps within a data set
    and hurts a model that is applied to another one without training."""
    background: float = 0.0
    """Probability that the background comes from another training image (not in the papers). It
    keeps a small network from telling persons by the places they were seen in."""

    def __post_init__(self) -> None:
        if not 0 <= self.padding <= min(self.size) or min(self.size) < 1:
            raise UserError(
                f"size is {self.size} and padding {self.padding}: give pixels, the padding at most"
                " the smaller side"
            )
        check_ranges(self, flip=(0, 1), background=(0, 1))


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
