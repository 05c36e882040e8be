"""Multi-crop views a second on one core, beside the same recipe in torchvision and Pillow.

    python -m benchmarks.views --images 40 --rounds 3

Both make the 2 + 8 views of TransReID-SSL's DINO from the same decoded images, in turns, in one
thread; the time is this process's processor time, so that other programs disturb it little.
Decoding is left out: it is the same for both and is paid once for ten views. The sources are drawn
figures of the sizes of LUPerson's crops (about 128 x 64 to 256 x 128). The second table says
whether the views are alike: figures of single views, averaged over all views of a kind, and
the means' difference in standard errors (beyond 3, it is hardly chance).
"""

import argparse
import random
import time
from collections.abc import Callable
from itertools import product

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.reporting import finish
from transreid_ssl.data import MultiCrop, MultiCropConfig

Maker = Callable[[int, int], list[list[np.ndarray]]]
KINDS = ("global 1", "global 2", "local")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=40, help="source images (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all images (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of the views")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    images = [draw_source(np.random.default_rng([options.seed, i])) for i in range(options.images)]
    makers = view_makers(images, MultiCropConfig(), options.seed)
    rates = measure(makers, len(images), options.rounds)
    moments = compare(makers, len(images), options.rounds)
    print_tables(rates, moments)
    ours, baseline = (float(np.median(rates[name])) for name in ("ours", "baseline"))
    finish(
        ours / baseline,
        ours_views_per_second=round(ours, 1),
        baseline_views_per_second=round(baseline, 1),
        moments=moments,
    )


def draw_source(rng: np.random.Generator) -> np.ndarray:
    """A figure before a background: blocks of colour with folds, noise and soft edges."""
    height = int(rng.integers(128, 257))
    width = height * int(rng.integers(40, 61)) // 100
    image = np.empty((height, width, 3))
    image[:] = rng.uniform(40, 220, 3)
    for top, bottom, half in ((0.05, 0.2, 0.12), (0.18, 0.55, 0.3), (0.5, 0.95, 0.2)):
        rows = slice(int(top * height), int(bottom * height))
        columns = slice(int((0.5 - half) * width), int((0.5 + half) * width))
        image[rows, columns] = rng.uniform(0, 255, 3)
    folds = cv2.GaussianBlur(rng.normal(0, 120, image.shape), (0, 0), 4)
    image = cv2.GaussianBlur(image + folds + rng.normal(0, 12, image.shape), (0, 0), 0.8)
    return np.clip(image, 0, 255).astype(np.uint8)


class Baseline:
    """The same views with torchvision's transforms on Pillow images."""

    def __init__(self, config: MultiCropConfig):
        self.num_local = config.num_local
        self.views = [
            self._pipeline(config, config.global_size, config.global_scale, blur, solarize)
            for blur, solarize in zip(config.global_blur, config.global_solarize)
        ]
        self.local = self._pipeline(
            config, config.local_size, config.local_scale, config.local_blur
        )

    @staticmethod
    def _pipeline(config, size, scale, blur, solarize=0.0) -> transforms.Compose:
        low, high = config.blur_sigma

        def blurred(image: Image.Image) -> Image.Image:
            return image.filter(ImageFilter.GaussianBlur(random.uniform(low, high)))

        jitter = (config.brightness, config.contrast, config.saturation, config.hue)
        bicubic = transforms.InterpolationMode.BICUBIC
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale, config.ratio, interpolation=bicubic),
                transforms.RandomHorizontalFlip(config.flip),
                transforms.RandomApply([transforms.ColorJitter(*jitter)], config.jitter),
                transforms.RandomGrayscale(config.grayscale),
                transforms.RandomApply([transforms.Lambda(blurred)], blur),
                transforms.RandomSolarize(128, solarize),
                np.asarray,
            ]
        )

    def __call__(self, image: Image.Image) -> list[list[np.ndarray]]:
        local = [self.local(image) for _ in range(self.num_local)]
        return [[view(image) for view in self.views], local]


def view_makers(images: list[np.ndarray], config: MultiCropConfig, seed: int) -> dict[str, Maker]:
    """Functions of (round, index of an image) that make its views."""
    multi_crop, baseline = MultiCrop(config), Baseline(config)
    sources = [Image.fromarray(image) for image in images]
    return {
        "ours": lambda k, index: multi_crop(images[index], np.random.default_rng([seed, k, index])),
        "baseline": lambda k, index: baseline(sources[index]),
    }


def measure(makers: dict[str, Maker], num_images: int, rounds: int) -> dict[str, list[float]]:
    """Views a second of every round; the makers take turns, round by round."""
    rates = {name: [] for name in makers}
    for k in range(rounds + 1):  # round 0 warms up
        for name, make in makers.items():
            num_views = 0
            start = time.process_time()
            for index in range(num_images if k else min(4, num_images)):
                num_views += sum(map(len, make(k, index)))
            if k:
                rates[name].append(num_views / (time.process_time() - start))
    return rates


def compare(makers: dict[str, Maker], num_images: int, rounds: int) -> dict:
    """kind -> figure -> [our mean, baseline's, our deviation, baseline's, standard errors]."""
    collected = {name: {kind: [] for kind in KINDS} for name in makers}
    for k, index in product(range(rounds), range(num_images)):
        for name, make in makers.items():
            collect(collected[name], make(k, index))
    moments = {}
    for kind in KINDS:
        pair = [collected[name][kind] for name in ("ours", "baseline")]
        moments[kind] = {}
        for figure in pair[0][0]:
            ours, plain = (np.array([view[figure] for view in views]) for views in pair)
            error = np.hypot(ours.std(), plain.std()) / len(ours) ** 0.5
            apart = (ours.mean() - plain.mean()) / error
            row = (ours.mean(), plain.mean(), ours.std(), plain.std(), apart)
            moments[kind][figure] = [round(float(value), 2) for value in row]
    return moments


def collect(figures: dict[str, list], views: list[list[np.ndarray]]) -> None:
    """Add the figures of one image's views to their kinds."""
    (first, second), local = views
    figures["global 1"].append(view_figures(first))
    figures["global 2"].append(view_figures(second))
    figures["local"].extend(map(view_figures, local))


def view_figures(view: np.ndarray) -> dict[str, float]:
    """Figures of one view, all in grey levels."""
    pixels = view.astype(np.float32)
    means = pixels.mean((0, 1))
    return {
        "red": float(means[0]),
        "green": float(means[1]),
        "blue": float(means[2]),
        "contrast": float(pixels.std((0, 1)).mean()),
        "colourfulness": float((pixels.max(2) - pixels.min(2)).mean()),
        "horizontal gradient": float(np.abs(np.diff(pixels, axis=1)).mean()),
        "vertical gradient": float(np.abs(np.diff(pixels, axis=0)).mean()),
    }


def print_tables(rates: dict[str, list[float]], moments: dict) -> None:
    print("views a second on one core (median, range of the rounds)")
    for name, values in rates.items():
        print(f"  {name:10} {np.median(values):9.0f}   {min(values):.0f} .. {max(values):.0f}")
    print(f"\n{'figures of single views':32}{'ours':>8}{'baseline':>10}{'difference':>12}", end="")
    print("   deviation: ours  baseline")
    for kind, figures in moments.items():
        for figure, (our_mean, mean, our_std, std, apart) in figures.items():
            print(f"  {kind:10}{figure:20}{our_mean:8.2f}{mean:10.2f}{apart:9.1f} SE", end="")
            print(f"{our_std:18.2f}{std:10.2f}")


if __name__ == "__main__":
    main()
