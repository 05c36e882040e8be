"""How like the target's an image is, told by a pre-trained network. No label of either is used.

Beside the catastrophic forgetting score, which needs a network fine-tuned with the target's labels.
All are cross-fitted: pool and target are cut in two halves, and an image is scored by what was
learnt from the other half, so that neither it nor the person in it is known by heart.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

_NEAREST = 5
_RUNS = 64
"""Into so many runs of names images are cut before they are dealt out to two halves."""


def halves(count: int, seed: int) -> np.ndarray:
    """The half, 0 or 1, that each of ``count`` images is in, int64 (count,).

    Images whose names follow one another are mostly of one person, or of one track: runs of them
    stay together, and chance deals the runs out.
    """
    runs = min(count, _RUNS)
    dealt = np.random.default_rng(seed).permutation(runs) % 2
    return dealt[np.arange(count) * runs // max(1, count)]


class Likeness(nn.Module, ABC):
    """A score of features: the higher, the more like the target.

    Made from ``target`` and ``pool``, unit features float32 (M, D) and (N, D) of images of either,
    and ``target_half`` and ``pool_half``, int64 (M,) and (N,), which half each is in.
    """

    def __init__(
        self, target: np.ndarray, target_half: np.ndarray, pool: np.ndarray, pool_half: np.ndarray
    ) -> None:
        super().__init__()
        learnt = [
            self.learn(target[target_half == half], pool[pool_half == half]) for half in (0, 1)
        ]
        for name in learnt[0]:
            for half in (0, 1):
                value = np.asarray(learnt[half][name], dtype=np.float32)
                self.register_buffer(f"{name}_{half}", torch.from_numpy(value))

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

    def learn(self, target: np.ndarray, pool: np.ndarray) -> dict[str, np.ndarray]:
        """The plane between the two."""
        rows = np.concatenate([target, pool]).astype(np.float64)
        centre, scale = rows.mean(0), rows.std(0) + 1e-6
        # Strongly regularised: of few images it is the direction between the two means.
        fitted = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        fitted.fit((rows - centre) / scale, np.repeat([1, 0], [len(target), len(pool)]))
        weight = fitted.coef_[0] / scale
        return {"weight": weight, "bias": fitted.intercept_[0] - weight @ centre}

    def score(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Log-odds."""
        return features @ weight + bias


class Moments(Likeness):
    """The logarithm of the ratio of two normal densities, with the means and covariances of each.

    Covariances are shrunk (Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004).
    """

    def learn(self, target: np.ndarray, pool: np.ndarray) -> dict[str, np.ndarray]:
        """Means, roots of the precisions, and the ratio at the means."""
        taught, logs = {}, {}
        for name, rows in (("target", target), ("pool", pool)):
            fitted = LedoitWolf().fit(rows.astype(np.float64))
            values, vectors = np.linalg.eigh(fitted.covariance_)
            values = np.maximum(values, 1e-12)  # features that are all the same
            taught[f"{name}_mean"] = fitted.location_
            taught[f"{name}_root"] = vectors / np.sqrt(values)
            logs[name] = np.log(values).sum()
        return taught | {"bias": (logs["pool"] - logs["target"]) / 2}

    def score(
        self, features: Tensor, bias: Tensor, target_mean: Tensor, target_root: Tensor,
        pool_mean: Tensor, pool_root: Tensor,
    ) -> Tensor:  # fmt: skip
        """The logarithm of the ratio."""
        to_target = ((features - target_mean) @ target_root).square().sum(1)
        to_pool = ((features - pool_mean) @ pool_root).square().sum(1)
        return (to_pool - to_target) / 2 + bias


class Nearest(Likeness):
    """Mean cosine to the five nearest images of the target."""

    def learn(self, target: np.ndarray, pool: np.ndarray) -> dict[str, np.ndarray]:
        """The target's features, by heart."""
        return {"rows": target}

    def score(self, features: Tensor, rows: Tensor) -> Tensor:
        """The mean of the largest cosines."""
        cosines = features @ rows.T
        return cosines.topk(min(_NEAREST, cosines.shape[1]), dim=1).values.mean(dim=1)


LIKENESSES = {"density-ratio": DensityRatio, "nearest": Nearest, "moments": Moments}
