"""How like the target's an image is, told by a pre-trained network. No label of either is used.

Beside the catastrophic forgetting score, which needs a network fine-tuned with the target's labels.
All are cross-fitted: pool and target are cut in two halves, and an image is scored by what was
learnt from the other half, so that it is not known by heart, nor are most of the people. Where
images are many, whitened features tell most: what a network tells loudest, clothing say, is not
what tells two places apart. Where they are few, whitening is mostly noise. So settings are chosen,
among a few, by how well they tell the other half's images.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.cfs.judge import area_under_roc

_RATIOS = (
    *(("scaled", strength) for strength in (1e-4, 1e-3, 1e-2)),
    *(("white", strength) for strength in (1e-4, 1e-3, 1e-2, 1e-1)),
)
"""Frames and regularisations that density ratios are tried with; scikit-learn's C, its inverse."""
_NEAREST, _FEWEST = 0.05, 5
"""The share of the target's images, and their least number, that count as the nearest."""
_RUNS = 64
"""Into so many runs of names images are cut before they are dealt out to two halves."""

_BLOCK = 4096

Learnt = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Unit features float32 (M, D) of images of the target, and the half, int64 (M,), that each is in;
the same (N, D) and (N,) of images of the pool."""


def halves(count: int, seed: int) -> np.ndarray:
    """The half, 0 or 1, that each of ``count`` images is in, int64 (count,).

    Images whose names follow one another are mostly of one person, or of one track: runs of them
    stay together, and chance deals the runs out.
    """
    runs = min(count, _RUNS)
    dealt = np.random.default_rng(seed).permutation(runs) % 2
    return dealt[np.arange(count) * runs // max(1, count)]


def whitening(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to take from features (N, D), and the symmetric matrix to multiply them with then.

    The covariance is shrunk as the number of rows asks for (Ledoit and Wolf, Journal of
    Multivariate Analysis 88, 2004).

    Returns:
        float64 (D,) and (D, D).
    """
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(rows.astype(np.float64))
    values, vectors = np.linalg.eigh(fitted.covariance_)
    # The limit is for features that are all the same.
    return fitted.location_, vectors / np.sqrt(np.maximum(values, 1e-12)) @ vectors.T


def frame(rows: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of one of the kinds "raw" (as they are), "scaled" (unit variances) and "white"."""
    if kind == "white":
        return whitening(rows)
    if kind == "raw":
        return np.zeros(rows.shape[1]), np.eye(rows.shape[1])
    return rows.mean(0, dtype=np.float64), np.diag(1 / (rows.std(0, dtype=np.float64) + 1e-6))


class Likeness(nn.Module, ABC):
    """A score of features: the higher, the more like the target.

    Args:
        learnt: what both halves teach.
        settings: for ``learn``.
    """

    def __init__(self, *learnt: np.ndarray, **settings: Any) -> None:
        super().__init__()
        target, target_half, pool, pool_half = learnt
        for half in (0, 1):
            rows = target[target_half == half], pool[pool_half == half]
            # Small products, over and over: threads would wait for one another, and move digits.
            with threadpool_limits(limits=1):
                taught = self.learn(*rows, **settings)
            for name, value in taught.items():
                self._keep(f"{name}_{half}", value)

    @classmethod
    def taught(cls, buffers: dict[str, np.ndarray]) -> "Likeness":
        """One that was taught before, from its buffers by name."""
        likeness = cls.__new__(cls)
        nn.Module.__init__(likeness)
        for name, value in buffers.items():
            likeness._keep(name, value)
        return likeness

    def _keep(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(np.array(value, dtype=np.float32)))

    def forward(self, features: Tensor, half: Tensor) -> Tensor:
        """Scores float32 (B,) of unit features (B, D), each by what the other half has taught.

        Args:
            features: float32 (B, D), of the pool or of the target.
            half: int64 (B,), which half each is in.
        """
        scores = features.new_empty(len(features))
        for own in (0, 1):
            other = f"_{1 - own}"
            taught = {
                name.removesuffix(other): value
                for name, value in self.named_buffers()
                if name.endswith(other)
            }
            picked = half == own
            scores[picked] = self.score(features[picked], **taught)
        return scores

    @torch.inference_mode()
    def tells_apart(self, *learnt: np.ndarray) -> float:
        """How well it tells the target from the pool: the mean area under ROC of the halves."""
        theirs, ours = self._all(*learnt[:2]), self._all(*learnt[2:])
        areas = []
        for half in (0, 1):
            areas.append(area_under_roc(theirs[learnt[1] == half], ours[learnt[3] == half]))
        return float(np.mean(areas))

    def _all(self, features: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Scores (N,), made block by block."""
        blocks = zip(torch.from_numpy(features).split(_BLOCK), torch.from_numpy(half).split(_BLOCK))
        return torch.cat([self(*block) for block in blocks]).numpy()

    @abstractmethod
    def learn(self, target: np.ndarray, pool: np.ndarray) -> dict[str, np.ndarray]:
        """What one half of target and pool teaches."""

    @abstractmethod
    def score(self, features: Tensor, **taught: Tensor) -> Tensor:
        """Scores float32 (B,) of features (B, D) by what ``learn`` has returned."""


class DensityRatio(Likeness):
    """Log-odds of a logistic regression between target and pool, both of equal weight.

    With enough of both it is the logarithm of the ratio of their densities.
    """

    def learn(
        self, target: np.ndarray, pool: np.ndarray, kind: str = "white", strength: float = 1e-2
    ) -> dict[str, np.ndarray]:
        """The plane between the two."""
        from sklearn.linear_model import LogisticRegression

        rows = np.concatenate([target, pool])
        centre, matrix = frame(rows, kind)
        fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
        fitted.fit((rows - centre) @ matrix, np.repeat([1, 0], [len(target), len(pool)]))
        weight = matrix @ fitted.coef_[0]
        return {"weight": weight, "bias": fitted.intercept_[0] - weight @ centre}

    def score(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Log-odds."""
        return features @ weight + bias


def density_ratio(*learnt: np.ndarray) -> DensityRatio:
    """The density ratio whose regularisation tells the other half's images best.

    Of few images that is the strongest, which leaves the direction between the two means.
    """
    tried = [DensityRatio(*learnt, kind=kind, strength=strength) for kind, strength in _RATIOS]
    return max(tried, key=lambda ratio: ratio.tells_apart(*learnt))


def separability(*learnt: np.ndarray) -> float:
    """How well features tell the target from the pool: the density ratio's area under ROC."""
    return density_ratio(*learnt).tells_apart(*learnt)


class Moments(Likeness):
    """The logarithm of the ratio of two normal densities, with the means and covariances of each.

    Covariances are shrunk as in ``whitening``.
    """

    def learn(self, target: np.ndarray, pool: np.ndarray) -> dict[str, np.ndarray]:
        """Means, roots of the precisions, and the ratio at the means."""
        taught, logs = {}, {}
        for name, rows in (("target", target), ("pool", pool)):
            taught[f"{name}_mean"], taught[f"{name}_root"] = whitening(rows)
            logs[name] = np.linalg.slogdet(taught[f"{name}_root"])[1]
        return taught | {"bias": logs["target"] - logs["pool"]}

    def score(
        self, features: Tensor, bias: Tensor, target_mean: Tensor, target_root: Tensor,
        pool_mean: Tensor, pool_root: Tensor,
    ) -> Tensor:  # fmt: skip
        """The logarithm of the ratio."""
        to_target = ((features - target_mean) @ target_root).square().sum(1)
        to_pool = ((features - pool_mean) @ pool_root).square().sum(1)
        return (to_pool - to_target) / 2 + bias


class Nearest(Likeness):
    """Mean cosine to the nearest images of the target: one in twenty of them, and at least five."""

    def learn(
        self, target: np.ndarray, pool: np.ndarray, kind: str = "white"
    ) -> dict[str, np.ndarray]:
        """The target's features, by heart."""
        centre, matrix = frame(np.concatenate([target, pool]), kind)
        rows = (target - centre) @ matrix
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return {"centre": centre, "matrix": matrix, "rows": rows}

    def score(self, features: Tensor, centre: Tensor, matrix: Tensor, rows: Tensor) -> Tensor:
        """The mean of the largest cosines."""
        cosines = F.normalize((features - centre) @ matrix, dim=1) @ rows.T
        count = min(len(rows), max(_FEWEST, round(_NEAREST * len(rows))))
        return cosines.topk(count, dim=1).values.mean(dim=1)


def nearest(*learnt: np.ndarray) -> Nearest:
    """The one of features as they are, or in a frame, that tells the other half's images best."""
    tried = [Nearest(*learnt, kind=kind) for kind in ("raw", "scaled", "white")]
    return max(tried, key=lambda likeness: likeness.tells_apart(*learnt))


KINDS: dict[str, type[Likeness]] = {
    "density-ratio": DensityRatio,
    "nearest": Nearest,
    "moments": Moments,
}
LIKENESSES: dict[str, Callable[..., Likeness]] = {
    "density-ratio": density_ratio,
    "nearest": nearest,
    "moments": Moments,
}
