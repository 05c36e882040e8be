"""How like the target's an image is."""

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transreid_ssl.cfs.likeness import KINDS, LIKENESSES, DensityRatio, Likeness, separability
from transreid_ssl.cfs.scorers.base import Input
from transreid_ssl.cfs.scorers.networks import LEARNING, NetworkScorer, input_of
from transreid_ssl.data import Pool
from transreid_ssl.models import Backbone, weights_digest
from transreid_ssl.processes import on_main


class LikenessScorer(NetworkScorer):
    """How like the target's an image is, to a network as it was pre-trained.

    Args:
        method: one of ``likeness.LIKENESSES``.
        weights: of the network.
        pool, target, accelerator, sample, seed: see ``NetworkScorer``.
    """

    likeness: Likeness | None = None

    identifying: tuple[str, ...] = (
        "method", "target_fingerprint", "before_digest", "precision", "sizes", "interpolations",
        "sample", "seed", "learning",
    )  # fmt: skip
    inputs: list[Input]
    record: dict[str, Any]
    separable: float | None

    def __init__(
        self,
        method: str,
        weights: str | Path,
        pool: Pool,
        target: Pool,
        accelerator: accelerate.Accelerator,
        sample: int,
        seed: int,
    ) -> None:
        super().__init__(pool, target, accelerator, sample, seed)
        self.method = method
        self.network: Backbone = self._load(weights)
        self.inputs = [input_of(self.network.spec)]
        self.record = {
            "method": method, "target_fingerprint": target.fingerprint,
            "before": str(weights), "before_digest": weights_digest(weights),
            "architecture": self.network.spec.name, "sizes": [list(self.inputs[0][0])],
            "interpolations": [self.inputs[0][1]], "sample": sample, "seed": seed,
            "learning": LEARNING,
        }  # fmt: skip

    def learn(self, batch_size: int, num_workers: int) -> None:
        """Learn from images of both."""
        if self.likeness is not None:
            return
        options = {"batch_size": batch_size, "num_workers": num_workers}
        learnt = self._both(self.network, options)

        def fit() -> tuple[Likeness, float]:
            likeness = LIKENESSES[self.method](*learnt)
            ratio = isinstance(likeness, DensityRatio)
            return likeness, likeness.tells_apart(*learnt) if ratio else separability(*learnt)

        self.likeness, self.separable = on_main(self.accelerator, fit)
        self.likeness.to(self.accelerator.device)

    def state(self) -> dict[str, np.ndarray]:
        """See ``Scorer``."""
        taught = {name: value.cpu().numpy() for name, value in self.likeness.named_buffers()}
        return super().state() | taught

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See ``Scorer``."""
        super().load_state(state)
        taught = {n: value for n, value in state.items() if n not in ("separable", "target")}
        if taught:
            self.likeness = KINDS[self.method].taught(taught).to(self.accelerator.device)

    @torch.inference_mode()
    def __call__(self, views: list[Tensor], places: range, of_target: bool) -> Tensor:
        features = F.normalize(self._features(self.network, views[0]), dim=1)
        half = (self.target_half if of_target else self.half)[places.start : places.stop]
        return self.likeness(features, torch.from_numpy(half).to(features.device))
