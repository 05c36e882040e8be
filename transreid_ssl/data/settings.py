"""How images are named, cut and changed, as settings."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from transreid_ssl.errors import UserError, check_ranges

Interpolation = Literal["linear", "cubic"]


DEFAULT_PATTERN = r"(?P<identity>-?\d+)_c(?P<camera>\d+)"


@dataclass(frozen=True)
class RandomErasingConfig:
    """Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020), section 3."""

    probability: float = 0.5
    """Part of the images that lose a rectangle; 0 turns erasing off."""
    area: tuple[float, float] = (0.02, 1 / 3)
    """Smallest and largest area of the rectangle as a part of the image (LUPerson's MoCo: 0.6)."""
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Smallest and largest height / width of the rectangle."""
    ratio_law: Literal["log-uniform", "uniform"] = "log-uniform"
    """How height / width is drawn: "log-uniform" draws wide rectangles as often as tall
    ones (timm, torchvision), "uniform" mostly tall ones (Cluster Contrast, LUPerson)."""
    attempts: int = 10
    """Draws before an image is left whole, if no rectangle fits into it (timm, torchvision: 10;
    Cluster Contrast, LUPerson: 100). Tall and large ones fit less often."""
    fill: Literal["noise", "mean", "byte", "normalised"] = "noise"
    """"noise": every value normally distributed with `mean` and `std`, clipped to 0..255, which
    after normalisation is close to N(0, 1); "mean": the colour `mean`, 0 after normalisation;
    "byte" and "normalised": the colour `colour`, before or after normalisation."""
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What "byte" and "normalised" fill with (RGB). "byte": 0..255, so that (0, 0, 0) is black;
    "normalised": what the network is to see. Both become the nearest byte within 0..255, which
    after normalisation differs from the colour by at most 1 / (510 std), if it is not clipped."""
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
        levels = (0, 255) if self.fill == "byte" else (None, None)
        check_ranges(self, attempts=(1, None), colour=levels)
        for name, known in (
            ("ratio_law", ("log-uniform", "uniform")),
            ("fill", ("noise", "mean", "byte", "normalised")),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f'erasing {name} is "{getattr(self, name)}": give {" or ".join(known)}'
                )

    def fill_colour(self) -> np.ndarray:
        """The one colour of every fill but "noise": uint8 (3,), RGB."""
        mean, std, colour = np.array(self.mean), np.array(self.std), np.array(self.colour)
        if self.fill == "byte":
            levels = colour
        elif self.fill == "normalised":
            levels = 255 * (mean + std * colour)
        else:
            levels = 255 * mean
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


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
    mates: Literal["image", "track"] = "image"
    """What the second, fourth, ... view is cut from: "image", the image itself, or "track", another
    frame of its track, far in time. Keys of the same track are then no negatives. Needs a pool that
    knows its tracks; `python -m transreid_ssl.data tracks` makes one."""
    doubt_mates: bool = False
    """Let pairs of frames teach by how surely they show one person, as the network sees it: for
    trackers that now and then go on with somebody else. Begins after a quarter of the run, and
    needs `mates` to be "track"; data/TRACKS.md has what it gained in one run."""
    certain_negatives: float = 1.0
    """How many times a key counts as a negative whose person was seen beside the query's, so that
    it is certainly another one's; for MoCo, MoCo v3 and MoBY, and needs `mates` to be "track"."""
    areas: int = 0
    """Overlapping areas from top to bottom that local views are cut from in turns; 0: the image. Of
    3, each is half as high as the image; recipes whose objective learns parts set it themselves."""
    original: bool = False
    """Also give the image without augmentation, resized to `global_size`, and where each global
    view lies in it; recipes whose objective compares parts of a body set it themselves."""

    def __post_init__(self) -> None:
        check_ranges(
            self, num_global=(1, None), num_local=(0, None), global_size=(1, None),
            local_size=(1, None), flip=(0, 1), jitter=(0, 1), grayscale=(0, 1), background=(0, 1),
            global_blur=(0, 1), local_blur=(0, 1), global_solarize=(0, 1),
            jitter_strength=(0, None), brightness=(0, None), contrast=(0, None),
            saturation=(0, None), hue=(0, None), areas=(0, 16), certain_negatives=(0, None),
        )  # fmt: skip
        if self.mates == "track" and self.original:
            raise UserError(
                "views.mates is track, and UP-ReID's terms compare parts of one image: give "
                "--views.mates image, or 0 for --regularisers.consistency_weight and "
                "--regularisers.intrinsic_weight"
            )
        for name, given in (
            ("doubt_mates", self.doubt_mates),
            ("certain_negatives", self.certain_negatives != 1),
        ):
            if given and self.mates != "track":
                raise UserError(
                    f"views.{name} is of views of two frames of a track: give --views.mates track"
                )
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
