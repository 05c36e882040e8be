"""How long a run is, and which learning rate and weight decay each of its steps uses."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long a run is, and what each step uses.

    Args:
        steps_per_epoch: Optimiser steps an epoch.
        epochs: Passes over the data.
        lr: Learning rate by step.
        weight_decay: Weight decay by step, for groups marked ``decay``; None: the optimiser's.
        clip: Largest gradient norm (0: none), and whether each parameter by itself.
    """

    steps_per_epoch: int
    epochs: int
    lr: Callable[[int], float]
    weight_decay: Callable[[int], float] | None = None
    clip: float = 0.0
    clip_each: bool = False

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs
