"""Whether a run is sound: its numbers finite and of a sane size, its features not all the same."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def feature_spread(features: Tensor) -> Tensor:
    """How far apart features are: the norm of their standard deviation after L2 normalisation.

    Args:
        features: (N, D), any float type.

    Returns:
        0-d float32 on the same device: 0 when all point the same way (collapsed), near 1 when they
        are spread over the sphere.
    """
    unit = torch.nn.functional.normalize(features.detach().float(), dim=1)
    return unit.std(dim=0, unbiased=False).norm()


class CollapseWatch:
    """Counts how often in a row the features' spread was below ``threshold``."""

    threshold: float
    patience: int
    low: int
    spread: float

    def __init__(self, threshold: float, patience: int) -> None:
        self.threshold, self.patience = threshold, patience
        self.low = 0
        self.spread = 1.0

    def look(self, spread: float | None) -> bool:
        """Take a logged spread into account (None: the objective has none).

        Returns:
            Whether it was below the threshold ``patience`` times in a row.
        """
        if spread is None or not self.patience:
            return False
        self.spread = spread
        self.low = self.low + 1 if spread < self.threshold else 0
        return self.low >= self.patience

    def describe(self, step: int) -> str:
        """What is wrong at ``step``."""
        return (
            f"the features have collapsed: their spread is {self.spread:.4f} at step {step}, below "
            f"{self.threshold} in the last {self.low} lines of the log"
        )


def all_finite(state: Any) -> bool:
    """Whether the floating-point tensors in nested dictionaries and lists hold only numbers."""
    sound = [tensor.isfinite().all() for tensor in _floats(state)]
    by_device: dict[torch.device, list[Tensor]] = {}
    for flag in sound:
        by_device.setdefault(flag.device, []).append(flag)
    return all(bool(torch.stack(flags).all()) for flags in by_device.values())


def _floats(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        if state.is_floating_point():
            yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _floats(part)
