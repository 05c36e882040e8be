"""Channel statistics of images, and how a network's uint8 images are normalised with them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """Mean and standard deviation of the red, green and blue channels, of values in 0…1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LUPERSON = Statistics((0.3525, 0.3106, 0.3140), (0.2660, 0.2522, 0.2505))


def stored_statistics(tensors: Mapping[str, Tensor]) -> Statistics | None:
    """Those that fast-reid keeps among its weights, of values in 0…255; None without them."""
    names = ("pixel_mean", "pixel_std")
    if not all(name in tensors and tensors[name].numel() == 3 for name in names):
        return None
    mean, std = (tuple((tensors[name].double().flatten() / 255).tolist()) for name in names)
    return Statistics(mean, std)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W), on any device, to float32 ``(images / 255 - mean) / std``.

    ``normalise(images, *IMAGENET)`` uses one of the constants of this module.
    """
    # A tensor made while torch traces a graph is of that graph: it must not stay in the cache.
    make = _scale_and_shift.__wrapped__ if torch.compiler.is_compiling() else _scale_and_shift
    scale, shift = make(tuple(mean), tuple(std), images.device)
    return images.float().mul_(scale).add_(shift)


@lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Cached: a fresh upload of six numbers would make a GPU wait at every batch.
    means, stds = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std))
    scale, shift = 1 / (255 * stds), -means / stds
    return scale.float().to(device), shift.float().to(device)
