"""The distribution of multi-crop views beside torchvision's transforms on Pillow images."""

import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from transreid_ssl.data import MultiCrop, MultiCropConfig


def person(seed: int, height: int = 144, width: int = 64) -> np.ndarray:
    """Blocks of colour with noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.uniform(40, 220, 3))
    image[height // 6 : height // 2, width // 5 : -width // 5] = rng.uniform(0, 255, 3)
    image[height // 2 :, width // 4 : -width // 4] = rng.uniform(0, 255, 3)
    image += cv2.GaussianBlur(rng.normal(0, 40, image.shape), (0, 0), 0.7)
    return np.clip(image, 0, 255).astype(np.uint8)


def reference_views(images, config: MultiCropConfig, rounds: int) -> list[np.ndarray]:
    """Figures of the first globals, second globals and locals of torchvision and Pillow."""
    jitter = (config.brightness, config.contrast, config.saturation, config.hue)

    def pipeline(size, scale, blur, solarize):
        sigma = config.blur_sigma
        return transforms.Compose([
            transforms.RandomResizedCrop(
                size, scale, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(*jitter)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.Lambda(
                lambda image: image.filter(ImageFilter.GaussianBlur(random.uniform(*sigma)))
            )], blur),
            transforms.RandomSolarize(128, solarize),
            np.asarray,
        ])  # fmt: skip

    first = pipeline(config.global_size, config.global_scale, 1.0, 0.0)
    second = pipeline(config.global_size, config.global_scale, 0.1, 0.2)
    local = pipeline(config.local_size, config.local_scale, 0.5, 0.0)
    images = images * rounds
    return [
        view_figures(np.stack([view(Image.fromarray(image)) for image in images]), images)
        for view in (first, second, local)
    ]


def our_views(images, config: MultiCropConfig, rounds: int) -> list[np.ndarray]:
    multi_crop = MultiCrop(replace(config, num_local=1))
    images = images * rounds
    views = [multi_crop(image, np.random.default_rng([7, i])) for i, image in enumerate(images)]
    return [
        view_figures(np.stack([groups[group][k] for groups in views]), images)
        for group, k in ((0, 0), (0, 1), (1, 0))
    ]


FIGURES = ("red", "green", "blue", "contrast", "gradient", "sharpness", "colour", "grey", "dark")
# Pillow cuts decimals off (darker by 1 of 100), and its bicubic is a little softer when it enlarges
# and sharper when it shrinks: this much of the mean is not held against the views.
ALLOWANCE = np.array([0.015, 0.015, 0.015, 0.02, 0.06, 0.06, 0.04, 0, 0.015])


def view_figures(views: np.ndarray, sources: list[np.ndarray]) -> np.ndarray:
    """uint8 (N, H, W, 3) -> (N, figures): colours beside the source's, gradients, greyness."""
    green = views[..., 1].astype(np.float32)
    contrast = green.std((1, 2)) + 1
    gradient = np.abs(np.diff(green, axis=2)).mean((1, 2)) + 0.1
    return np.column_stack([
        views.mean((1, 2)) / [[source.mean()] for source in sources],
        contrast / [source[..., 1].std() for source in sources],
        gradient / contrast,
        np.abs(np.diff(green, 2, axis=2)).mean((1, 2)) / gradient,
        (views[:, ::4, ::4].max(3) - views[:, ::4, ::4].min(3)).mean((1, 2)),
        np.all(views[..., 0] == views[..., 2], axis=(1, 2)),
        (green < 129).mean((1, 2)),  # 1 where solarised
    ])  # fmt: skip


def discrepancies(ours: list[np.ndarray], expected: list[np.ndarray]) -> dict[str, float]:
    """Differences of the figures' means and variances beyond the allowance, in standard errors."""
    found = {}
    for kind, a, b in zip(("global 1", "global 2", "local"), ours, expected):
        pairs = {"mean": (a, b), "variance": ((a - a.mean(0)) ** 2, (b - b.mean(0)) ** 2)}
        for moment, (a, b) in pairs.items():
            error = np.maximum(np.hypot(a.std(0), b.std(0)), 1e-9) / len(a) ** 0.5
            allowed = ALLOWANCE * np.abs(b.mean(0)) * (1 if moment == "mean" else 2)
            beyond = (np.abs(a.mean(0) - b.mean(0)) - allowed) / error
            found |= {f"{kind} {f} {moment}": d for f, d in zip(FIGURES, beyond.tolist())}
    return found


def largest(found: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(found.items(), key=lambda item: -item[1])[:5]


ROUNDS = 12
LIMIT = 3.3  # standard errors; 54 figures are compared
SMALL = MultiCropConfig(global_size=(128, 64), local_size=(96, 48))  # less work


@pytest.fixture(scope="module")
def sources():
    return [person(seed, 90 + 2 * seed, 40 + seed) for seed in range(40)]


@pytest.fixture(scope="module")
def reference(sources):
    random.seed(1)
    torch.manual_seed(1)
    return reference_views(sources, SMALL, ROUNDS)


def test_views_are_distributed_as_the_reference_pipelines(sources, reference):
    found = discrepancies(our_views(sources, SMALL, ROUNDS), reference)
    assert max(found.values()) < LIMIT, largest(found)


@pytest.mark.parametrize(
    "change",
    [
        {"jitter_strength": 2.0},
        {"jitter_strength": 0.5},
        {"grayscale": 0.1},
        {"global_blur": (0.5, 0.1)},
        {"local_blur": 0.0},
        {"blur_sigma": (0.1, 4.0)},
        {"global_solarize": (0.0, 0.5)},
        {"global_scale": (0.05, 0.4)},
        {"local_scale": (0.4, 1.0)},
    ],
    ids=lambda change: " ".join(change),
)
def test_the_comparison_notices_a_wrong_setting(sources, reference, change):
    found = discrepancies(our_views(sources, replace(SMALL, **change), ROUNDS), reference)
    assert max(found.values()) > LIMIT, largest(found)
