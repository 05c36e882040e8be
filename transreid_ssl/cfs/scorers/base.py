"""What a scorer is; and chance, the least of them."""

from abc import ABC, abstractmethod
from typing import Any

import accelerate
import numpy as np
import torch
from torch import Tensor

from transreid_ssl.data import Pool
from transreid_ssl.data.settings import Interpolation

Input = tuple[tuple[int, int], Interpolation]
"""(height, width) of a network's images, and the interpolation that they are resized with."""


class Scorer(ABC):
    """What scores a batch of images.

    Attributes:
        accelerator: where its networks are.
        inputs: the ways in which an image is resized for them.
        column: of the table that the scores are in.
        record: what the table remembers of them.
        identifying: the entries of ``record`` that two scorings must share to continue each other;
            paths may move, digests may not.
        target: images of the target that are learnt from, if anything is, and judged by, if any.
        separable: how well the target's images can be told from the pool's by their features, as an
            area under a ROC curve, once ``learn`` has found out; else None.
    """

    column: str = "score"
    separable: float | None = None
    accelerator: accelerate.Accelerator
    inputs: list[Input]
    record: dict[str, Any]
    identifying: tuple[str, ...]
    target: Pool | None

    def learn(self, batch_size: int, num_workers: int) -> None:  # noqa: B027 some learn nothing
        """Learn what is not known yet: before the first batch, on all processes at once.

        Args:
            batch_size, num_workers: of the embedding of what is learnt from.

        Raises:
            UserError: too few images to learn from.
        """

    def state(self) -> dict[str, np.ndarray]:
        """What ``learn`` has learnt; empty where nothing is."""
        if self.separable is None:
            return {}
        return {
            "separable": np.array(self.separable), "target": np.array(self.target.fingerprint),
        }  # fmt: skip

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Take what another run of the same scoring has learnt, as far as it serves this one."""
        if self.target is not None and str(state.get("target")) == self.target.fingerprint:
            self.separable = float(state["separable"])

    @abstractmethod
    def __call__(self, views: list[Tensor], places: range, of_target: bool) -> Tensor:
        """Scores float32 (B,) of uint8 images (B, H, W, 3), one tensor for each of ``inputs``.

        Args:
            places: where the images are in the pool, or in ``target`` where they are ``of_target``.
        """


class RandomScorer(Scorer):
    """Chance: the baseline of all others."""

    identifying: tuple[str, ...] = ("method", "seed")
    accelerator: accelerate.Accelerator
    inputs: list[Input]
    record: dict[str, Any]
    target: Pool | None
    scores: list[Tensor]

    def __init__(
        self, pool: Pool, target: Pool | None, accelerator: accelerate.Accelerator, seed: int
    ) -> None:
        self.target, self.accelerator, self.inputs = target, accelerator, []
        self.record = {"method": "random", "seed": seed}
        counts = len(pool), 0 if target is None else len(target)
        self.scores = [
            torch.from_numpy(np.random.default_rng(seed + n).random(count, np.float32))
            for n, count in enumerate(counts)
        ]

    def __call__(self, views: list[Tensor], places: range, of_target: bool) -> Tensor:
        return self.scores[of_target][places.start : places.stop]
