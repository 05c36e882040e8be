"""What gives an image its score: networks, on their device."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from transreid_ssl.cfs.likeness import DensityRatio, Likeness, Method, Nearest, halves
from transreid_ssl.data import Pool, SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.models import BackboneSpec, load_backbone, weights_digest
from transreid_ssl.processes import on_main
from transreid_ssl.retrieval import embed_images

Input = tuple[tuple[int, int], str]
"""(height, width) of a network's images, and the interpolation that they are resized with."""

_FEWEST = 10
"""Images of the target, and of the pool, that a likeness can be learnt from."""


class Scorer(ABC):
    """Networks, and the score of a batch.

    Attributes:
        accelerator: where they are.
        inputs: the ways in which an image is resized for them.
        column: of the table that the scores are in.
        record: what the table remembers of them.
        identifying: the entries of ``record`` that two scorings must share to continue each other;
            paths may move, digests may not.
        half, target_half: int64 (N,) and (M,): see ``likeness.halves``; zeros where not asked for.
    """

    accelerator: Accelerator
    inputs: list[Input]
    column: str
    record: dict[str, Any]
    identifying: tuple[str, ...]
    half: Tensor
    target_half: Tensor

    @abstractmethod
    def learn(self, batch_size: int, num_workers: int) -> None:
        """Called before the first batch, on all processes at once, if there is anything to score.

        Args:
            batch_size, num_workers: of the embedding of what is learnt from.
        """

    @abstractmethod
    def __call__(self, views: list[Tensor], half: Tensor) -> Tensor:
        """Scores float32 (B,) of uint8 images (B, H, W, 3), one tensor for each of ``inputs``."""

    def _load(self, path: str | Path) -> nn.Module:
        # Camera embeddings and a norm behind the feature belong to the fine-tuning alone.
        network = load_backbone(path, num_cameras=0, feature_norm=False)
        return network.requires_grad_(False).to(self.accelerator.device)

    def _features(self, network: nn.Module, view: Tensor) -> Tensor:
        images = view.to(self.accelerator.device, non_blocking=True).permute(0, 3, 1, 2)
        with self.accelerator.autocast():
            return network(images).float()


class ForgettingScorer(Scorer):
    """The catastrophic forgetting score, CFS (TransReID-SSL, section 3).

    A backbone is taken twice: as pre-trained, and after supervised fine-tuning on the target. The
    score of an image is the cosine between its two features. What the target resembles keeps its
    feature; what it does not is forgotten. Both features are class tokens before the BN neck,
    without camera embedding.
    """

    column = "cfs"
    identifying = ("before_digest", "after_digest", "precision", "sizes", "interpolations")

    def __init__(self, before: str | Path, after: str | Path, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.networks = [self._load(path) for path in (before, after)]
        self.specs = [network.spec for network in self.networks]
        _check_same_architecture(before, after, *self.specs)
        # One decoded and resized copy of each image serves both networks where their inputs agree.
        self.inputs = list(dict.fromkeys(map(_input_of, self.specs)))
        self.half = self.target_half = torch.zeros(0, dtype=torch.int64)
        self.record = {
            "before": str(before), "before_digest": weights_digest(before),
            "after": str(after), "after_digest": weights_digest(after),
            "architecture": self.specs[0].name,
            "sizes": [list(spec.img_size) for spec in self.specs],
            "interpolations": [spec.interpolation for spec in self.specs],
        }  # fmt: skip

    def learn(self, batch_size: int, num_workers: int) -> None:
        """Nothing: fine-tuning has."""

    @torch.inference_mode()
    def __call__(self, views: list[Tensor], half: Tensor) -> Tensor:
        features = [
            self._features(network, views[self.inputs.index(_input_of(spec))])
            for network, spec in zip(self.networks, self.specs)
        ]
        return F.cosine_similarity(*features, dim=1)


class LikenessScorer(Scorer):
    """How like the target's an image is, to a network as it was pre-trained.

    Args:
        pool: what is scored.
        target: images of the target.
        weights: of the network.
        accelerator: where it goes; all processes share the embedding of what is learnt from.
        method: see ``likeness``.
        sample: images of either to learn from at most.
        seed: which ones, and of the halves.
    """

    likeness: Likeness

    column = "score"
    identifying = (
        "method", "target_fingerprint", "before_digest", "precision", "sizes", "interpolations",
        "sample", "seed",
    )  # fmt: skip

    def __init__(
        self,
        pool: Pool,
        target: Pool,
        weights: str | Path,
        accelerator: Accelerator,
        *,
        method: Method,
        sample: int,
        seed: int,
    ) -> None:
        self.accelerator = accelerator
        self.network = self._load(weights)
        self.inputs = [_input_of(self.network.spec)]
        self.method = method
        self.sample, self.places = _some(pool, sample, seed)
        self.target = _some(target, sample, seed)[0]
        """Those of the target that are learnt from, and judged by."""
        self.half = torch.from_numpy(halves(len(pool), seed))
        self.target_half = torch.from_numpy(halves(len(self.target), seed + 1))
        self.record = {
            "method": method, "target_fingerprint": target.fingerprint,
            "before": str(weights), "before_digest": weights_digest(weights),
            "architecture": self.network.spec.name, "sizes": [list(self.inputs[0][0])],
            "interpolations": [self.inputs[0][1]], "sample": sample, "seed": seed,
        }  # fmt: skip

    def learn(self, batch_size: int, num_workers: int) -> None:
        """As it is said above.

        Raises:
            UserError: too few images.
        """
        options = {"batch_size": batch_size, "num_workers": num_workers}
        theirs, found = self._embed(self.target, options)
        target = theirs, self.target_half.numpy()[found]
        ours, found = self._embed(self.sample, options)
        pool = ours, self.half.numpy()[self.places[found]]

        def fit() -> Likeness:
            return Nearest(*target) if self.method == "nearest" else DensityRatio(*target, *pool)

        self.likeness = on_main(self.accelerator, fit).to(self.accelerator.device)

    def _embed(self, images: Pool, options: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """Unit features float32 (R, D), and the places of the R images that can be read."""
        found, places = embed_images(
            self.network, images, accelerator=self.accelerator, skip_corrupt=True,
            precision=self.accelerator.mixed_precision, **options,
        )  # fmt: skip
        if len(places) < _FEWEST:
            raise UserError(
                f"{images.source}: {len(places)} readable image(s), too few to learn from: give "
                f"{_FEWEST} or more"
            )
        return found.numpy(), places

    @torch.inference_mode()
    def __call__(self, views: list[Tensor], half: Tensor) -> Tensor:
        features = F.normalize(self._features(self.network, views[0]), dim=1)
        return self.likeness(features, half.to(features.device))


def _some(pool: Pool, count: int, seed: int) -> tuple[Pool, np.ndarray]:
    """At most ``count`` images of a pool, drawn at random, and their places in it."""
    places = np.arange(len(pool))
    if len(pool) > count:
        places = np.sort(np.random.default_rng(seed).choice(len(pool), count, replace=False))
    return (pool if len(places) == len(pool) else SubsetPool(pool, places)), places


def _input_of(spec: BackboneSpec) -> Input:
    """How a network wants its images resized."""
    return spec.img_size, spec.interpolation


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
