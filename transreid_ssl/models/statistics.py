"""Channel statistics of images, and how a network's uint8 images are normalised with them."""

from collections.abc import Mapping, Sequence
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
LUPERSON_MGN = Statistics(
    (89.896 / 255, 79.200 / 255, 80.073 / 255), (63.872 / 255, 64.305 / 255, 63.839 / 255)
)
"""LUPerson fine-tunes with these: the same means, and deviations of its own."""
STATISTICS = {"imagenet": IMAGENET, "luperson": LUPERSON, "half": HALF}
"""By the names that settings have for them."""


def stored_statistics(tensors: Mapping[str, Tensor]) -> Statistics | None:
    """Those that fast-reid keeps among its weights, of values in 0…255; None without them."""
    names = ("pixel_mean", "pixel_std")
    if not all(name in tensors and tensors[name].numel() == 3 for name in names):
        return None
    mean, std = (tuple((tensors[name].double().flatten() / 255).tolist()) for name in names)
    return Statistics(mean, std)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W), on any device, to float32 ``(images / 255 - mean) / std``.

    Float images are normalised already and returned as they are. Networks call this themselves;
    ``normalise(images, *IMAGENET)`` uses one of the constants of this module.

    Raises:
        TypeError: no tensor.
    """
    require_tensor(images)
    if images.is_floating_point():
        return images
    # Filled on the device: an upload of six numbers would make a GPU wait at every batch.
    scale, shift = (
        torch.stack([torch.full((1, 1), value, device=images.device) for value in values])
        for values in ([1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std)])
    )
    return images.float().mul_(scale).add_(shift)


def require_tensor(images: object) -> None:
    """Say what does take it, if somebody gives a network something else, such as a path."""
    if not isinstance(images, Tensor):
        raise TypeError(
            "a network takes a tensor, uint8 (B, 3, H, W), and not a "
            f"{type(images).__name__}: transreid_ssl.Embedder(network)(images) takes paths, "
            "Pillow's images and arrays"
        )
