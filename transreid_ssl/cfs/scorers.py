"""What gives an image its score: networks, on their device."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from transreid_ssl.cfs.likeness import (
    KINDS,
    LIKENESSES,
    DensityRatio,
    Learnt,
    Likeness,
    halves,
    separability,
    whitening,
)
from transreid_ssl.data import Pool, SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.models import BackboneSpec, load_backbone, weights_digest
from transreid_ssl.processes import on_main
from transreid_ssl.retrieval import embed_images
from transreid_ssl.retrieval.embed import refuse_not_finite

Method = Literal[
    "cfs", "cfs-centred", "cfs-whitened", "density-ratio", "nearest", "moments", "random"
]
Input = tuple[tuple[int, int], str]
"""(height, width) of a network's images, and the interpolation that they are resized with."""

_FEWEST = 10
"""Images of the target, and of the pool, that anything can be learnt from."""
_LEARNING = 2
"""Raised when a method learns in another way: scorings before are not continued then."""


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

    column = "score"
    separable: float | None = None
    accelerator: Accelerator
    inputs: list[Input]
    record: dict[str, Any]
    identifying: tuple[str, ...]
    target: Pool | None

    def learn(self, batch_size: int, num_workers: int) -> None:  # noqa: B027 some learn nothing
        """Called before the first batch, on all processes at once, if there is anything to score.

        Args:
            batch_size, num_workers: of the embedding of what is learnt from.

        Raises:
            UserError: too few images to learn from.
        """

    def state(self) -> dict[str, np.ndarray]:
        """What ``learn`` has learnt; empty where nothing is."""
        return {} if self.separable is None else {"separable": np.float64(self.separable)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Take what another run of the same scoring has learnt, instead of ``learn``."""
        self.separable = float(state["separable"]) if "separable" in state else None

    @abstractmethod
    def __call__(self, views: list[Tensor], places: range, of_target: bool) -> Tensor:
        """Scores float32 (B,) of uint8 images (B, H, W, 3), one tensor for each of ``inputs``.

        Args:
            places: where the images are in the pool, or in ``target`` where they are ``of_target``.
        """


class NetworkScorer(Scorer):
    """Scores by the features that networks give images.

    Args:
        pool: what is scored.
        target: images of the target.
        accelerator: where networks go; all processes share the embedding of what is learnt from.
        sample: images of either to learn from at most.
        seed: which ones, and of the halves.
    """

    def __init__(
        self, pool: Pool, target: Pool | None, accelerator: Accelerator, sample: int, seed: int
    ) -> None:
        self.accelerator, self.seed = accelerator, seed
        self.sample, self.places = _some(pool, sample, seed)
        self.target = None if target is None else _some(target, sample, seed)[0]
        self.half = halves(len(pool), seed)
        self.target_half = halves(0 if target is None else len(self.target), seed + 1)

    def _load(self, path: str | Path) -> nn.Module:
        # Camera embeddings and a norm behind the feature belong to the fine-tuning alone.
        network = load_backbone(path, num_cameras=0, feature_norm=False)
        return network.requires_grad_(False).to(self.accelerator.device)

    def _features(self, network: nn.Module, view: Tensor) -> Tensor:
        images = view.to(self.accelerator.device, non_blocking=True).permute(0, 3, 1, 2)
        with self.accelerator.autocast():
            return network(images).float()

    def _embed(
        self, network: nn.Module, images: Pool, options: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit features float32 (R, D), and the places of the R images that can be read."""
        found, places = embed_images(
            network, images, accelerator=self.accelerator, skip_corrupt=True,
            precision=self.accelerator.mixed_precision, **options,
        )  # fmt: skip
        if len(places) < _FEWEST:
            raise UserError(
                f"{images.source}: {len(places)} readable image(s), too few to learn from: give "
                f"{_FEWEST} or more"
            )
        finite = found.isfinite().all(dim=1).numpy()
        if not finite.all():
            refuse_not_finite(images.names[int(places[~finite][0])])
        return found.numpy(), places

    def _both(self, network: nn.Module, options: dict[str, int]) -> Learnt:
        """What a ``Likeness`` is made from."""
        theirs, found = self._embed(network, self.target, options)
        target_half = self.target_half[found]
        ours, found = self._embed(network, self.sample, options)
        half = self.half[self.places[found]]
        for images, dealt in ((self.target, target_half), (self.sample, half)):
            if np.bincount(dealt, minlength=2).min() < _FEWEST // 2:
                raise UserError(
                    f"{images.source}: too few images can be read to learn from both halves of it"
                )
        return theirs, target_half, ours, half


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

    identifying = ("before_digest", "after_digest", "precision", "sizes", "interpolations")

    def __init__(
        self,
        method: Method,
        before: str | Path,
        after: str | Path,
        pool: Pool,
        target: Pool | None,
        accelerator: Accelerator,
        sample: int,
        seed: int,
    ) -> None:
        super().__init__(pool, target, accelerator, sample, seed)
        self.method, self.frames = method, []
        self.networks = [self._load(path) for path in (before, after)]
        self.specs = [network.spec for network in self.networks]
        _check_same_architecture(before, after, *self.specs)
        # One decoded and resized copy of each image serves both networks where their inputs agree.
        self.inputs = list(dict.fromkeys(map(_input_of, self.specs)))
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
            self.record |= {"method": method, "sample": sample, "seed": seed, "learning": _LEARNING}
            self.identifying += ("method", "sample", "seed", "learning")

    def learn(self, batch_size: int, num_workers: int) -> None:
        """What the pool's features have in common, and how well they tell the target from it."""
        options = {"batch_size": batch_size, "num_workers": num_workers}
        features: list[np.ndarray] = []
        if self.target is not None:
            learnt = self._both(self.networks[0], options)
            self.separable = on_main(self.accelerator, lambda: separability(*learnt))
            features.append(learnt[2])
        if self.method != "cfs":
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
        if self.method != "cfs":
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
            self._features(network, views[self.inputs.index(_input_of(spec))])
            for network, spec in zip(self.networks, self.specs)
        ]
        if self.frames:
            features = [
                (F.normalize(rows, dim=1) - mean.to(rows.device)) @ matrix.to(rows.device)
                for rows, (mean, matrix) in zip(features, self.frames)
            ]
        return F.cosine_similarity(*features, dim=1)


class LikenessScorer(NetworkScorer):
    """How like the target's an image is, to a network as it was pre-trained.

    Args:
        method: one of ``likeness.LIKENESSES``.
        weights: of the network.
        pool, target, accelerator, sample, seed: see ``NetworkScorer``.
    """

    likeness: Likeness

    identifying = (
        "method", "target_fingerprint", "before_digest", "precision", "sizes", "interpolations",
        "sample", "seed", "learning",
    )  # fmt: skip

    def __init__(
        self,
        method: Method,
        weights: str | Path,
        pool: Pool,
        target: Pool,
        accelerator: Accelerator,
        sample: int,
        seed: int,
    ) -> None:
        super().__init__(pool, target, accelerator, sample, seed)
        self.method = method
        self.network = self._load(weights)
        self.inputs = [_input_of(self.network.spec)]
        self.record = {
            "method": method, "target_fingerprint": target.fingerprint,
            "before": str(weights), "before_digest": weights_digest(weights),
            "architecture": self.network.spec.name, "sizes": [list(self.inputs[0][0])],
            "interpolations": [self.inputs[0][1]], "sample": sample, "seed": seed,
            "learning": _LEARNING,
        }  # fmt: skip

    def learn(self, batch_size: int, num_workers: int) -> None:
        """Learn from images of both."""
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
        taught = {name: value for name, value in state.items() if name != "separable"}
        self.likeness = KINDS[self.method].taught(taught).to(self.accelerator.device)

    @torch.inference_mode()
    def __call__(self, views: list[Tensor], places: range, of_target: bool) -> Tensor:
        features = F.normalize(self._features(self.network, views[0]), dim=1)
        half = (self.target_half if of_target else self.half)[places.start : places.stop]
        return self.likeness(features, torch.from_numpy(half).to(features.device))


class RandomScorer(Scorer):
    """Chance: the baseline of all others."""

    identifying = ("method", "seed")

    def __init__(
        self, pool: Pool, target: Pool | None, accelerator: Accelerator, seed: int
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


def make_scorer(
    method: Method,
    before: str | Path | None,
    after: str | Path | None,
    pool: Pool,
    target: Pool | None,
    accelerator: Accelerator,
    *,
    sample: int,
    seed: int,
) -> Scorer:
    """The scorer of a method; see ``scoring.score`` for the arguments.

    Raises:
        UserError: what the method needs is missing.
    """
    if method not in get_args(Method):
        raise UserError(f"method {method}: is unknown; give one of {', '.join(get_args(Method))}")
    if method == "random":
        return RandomScorer(pool, target, accelerator, seed)
    shared = pool, target, accelerator, sample, seed
    if before is None:
        raise UserError(f"method {method}: needs the weights of a pre-trained backbone")
    if method in LIKENESSES:
        if target is None:
            raise UserError(f"method {method}: needs images of the target")
        return LikenessScorer(method, before, *shared)
    if after is None:
        raise UserError(f"method {method}: needs the weights after fine-tuning as well")
    return ForgettingScorer(method, before, after, *shared)


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
