"""The catastrophic forgetting score, and its variants."""

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transreid_ssl.cfs.likeness import separability, whitening
from transreid_ssl.cfs.scorers.base import Input
from transreid_ssl.cfs.scorers.networks import LEARNING, NetworkScorer, input_of
from transreid_ssl.data import Pool
from transreid_ssl.errors import UserError
from transreid_ssl.models import Backbone, BackboneSpec, weights_digest
from transreid_ssl.processes import on_main


class ForgettingScorer(NetworkScorer):
    """The catastrophic forgetting score, CFS (TransReID-SSL, section 3).

    A backbone is taken twice: as pre-trained, and after supervised fine-tuning on the target. The
    score of an image is the cosine between its two features. What the target resembles keeps its
    feature; what it does not is forgotten. Both features are class tokens before the BN neck,
    without camera embedding.

    A direction that all features share decides such a cosine for all of them alike. The variants
    take what the pool's features have in common away first, for each of the two networks: their
    mean ("cfs-centred"), or their mean and covariance ("cfs-whitened").

    Args:
        method: "cfs", or one of the variants.
        before, after: weights.
        pool, target, accelerator, sample, seed: see ``NetworkScorer``.
    """

    identifying: tuple[str, ...] = (
        "before_digest", "after_digest", "precision", "sizes", "interpolations",
    )  # fmt: skip
    inputs: list[Input]
    record: dict[str, Any]
    separable: float | None
    method: str
    frames: list[tuple[Tensor, Tensor]]
    networks: list[Backbone]
    specs: list[BackboneSpec]

    def __init__(
        self,
        method: str,
        before: str | Path,
        after: str | Path,
        pool: Pool,
        target: Pool | None,
        accelerator: accelerate.Accelerator,
        sample: int,
        seed: int,
    ) -> None:
        super().__init__(pool, target, accelerator, sample, seed)
        self.method, self.frames = method, []
        self.networks = [self._load(path) for path in (before, after)]
        self.specs = [network.spec for network in self.networks]
        _check_same_architecture(before, after, *self.specs)
        # One decoded and resized copy of each image serves both networks where their inputs agree.
        self.inputs = list(dict.fromkeys(map(input_of, self.specs)))
        self.record = {
            "before": str(before), "before_digest": weights_digest(before),
            "after": str(after), "after_digest": weights_digest(after),
            "architecture": self.specs[0].name,
            "sizes": [list(spec.img_size) for spec in self.specs],
            "interpolations": [spec.interpolation for spec in self.specs],
        }  # fmt: skip
        if method == "cfs":
            self.column = "cfs"
        else:
            self.record |= {"method": method, "sample": sample, "seed": seed, "learning": LEARNING}
            self.identifying += ("method", "sample", "seed", "learning")

    def learn(self, batch_size: int, num_workers: int) -> None:
        """What the pool's features have in common, and how well they tell the target from it."""
        options = {"batch_size": batch_size, "num_workers": num_workers}
        features: list[np.ndarray] = []
        if self.target is not None and self.separable is None:
            learnt = self._both(self.networks[0], options)
            self.separable = on_main(self.accelerator, lambda: separability(*learnt))
            features.append(learnt[2])
        if self.method != "cfs" and not self.frames:
            for network in self.networks[len(features) :]:
                features.append(self._embed(network, self.sample, options)[0])
            self.frames = on_main(self.accelerator, lambda: [self._frame(f) for f in features])

    def state(self) -> dict[str, np.ndarray]:
        """See ``Scorer``."""
        parts = {
            f"{name}_{number}": value.numpy()
            for number, frame in enumerate(self.frames)
            for name, value in zip(("mean", "matrix"), frame)
        }
        return super().state() | parts

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """See ``Scorer``."""
        super().load_state(state)
        if "mean_0" in state:
            self.frames = [
                tuple(torch.from_numpy(state[f"{name}_{n}"]) for name in ("mean", "matrix"))
                for n in range(len(self.networks))
            ]

    def _frame(self, features: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is taken from features, float32 (D,), and what they are multiplied with (D, D)."""
        if self.method == "cfs-centred":
            return torch.from_numpy(features.mean(0)), torch.eye(features.shape[1])
        mean, matrix = (torch.from_numpy(values).float() for values in whitening(features))
        return mean, matrix

    @torch.inference_mode()
    def __call__(self, views: list[Tensor], places: range, of_target: bool) -> Tensor:
        features = [
            self._features(network, views[self.inputs.index(input_of(spec))])
            for network, spec in zip(self.networks, self.specs)
        ]
        if self.frames:
            features = [
                (F.normalize(rows, dim=1) - mean.to(rows.device)) @ matrix.to(rows.device)
                for rows, (mean, matrix) in zip(features, self.frames)
            ]
        return F.cosine_similarity(*features, dim=1)


def _check_same_architecture(
    before: str | Path, after: str | Path, one: BackboneSpec, other: BackboneSpec
) -> None:
    for field in ("name", "stride", "gem"):
        ours, theirs = getattr(one, field), getattr(other, field)
        if ours != theirs:
            raise UserError(
                f"{after}: is not {before} fine-tuned: its {field} is {theirs}, not {ours}; "
                "the score compares one architecture before and after"
            )
