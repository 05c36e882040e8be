"""How like the target's an image is, told by a pre-trained network. No label of either is used.

Beside the catastrophic forgetting score, which needs a network fine-tuned with the target's labels.
Both are cross-fitted: pool and target are cut in two halves at random, and an image is scored by
what was learnt from the other half, so that none is known by heart.
"""

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

Method = Literal["density-ratio", "nearest"]
_NEAREST = 5


def halves(count: int, seed: int) -> np.ndarray:
    """The half, 0 or 1, that each of ``count`` images is in, int64 (count,)."""
    return np.random.default_rng(seed).permutation(count) % 2


class Likeness(ABC):
    """A score of features: the higher, the more like the target."""

    @abstractmethod
    def __call__(self, features: Tensor, half: Tensor) -> Tensor:
        """Scores float32 (B,) of unit features (B, D), each by what the other half has taught.

        Args:
            features: float32 (B, D), of the pool or of the target.
            half: int64 (B,), which half each is in.
        """


class DensityRatio(Likeness):
    """Log-odds of a logistic regression between target and pool, equally many of both.

    With enough of both it is the logarithm of the ratio of their densities.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        """float32 (2, D) and (2,): those learnt from each half."""

    @classmethod
    def fit(
        cls, target: np.ndarray, target_half: np.ndarray, pool: np.ndarray, pool_half: np.ndarray
    ) -> "DensityRatio":
        """Learn from unit features float32 (M, D) of the target and (N, D) of some of the pool."""
        lines = [_separate(target[target_half == half], pool[pool_half == half]) for half in (0, 1)]
        weight, bias = (np.stack(values).astype(np.float32) for values in zip(*lines))
        return cls(torch.from_numpy(weight), torch.from_numpy(bias))

    def __call__(self, features: Tensor, half: Tensor) -> Tensor:
        both = features @ self.weight.to(features.device).T + self.bias.to(features.device)
        return both.gather(1, 1 - half[:, None])[:, 0]


def _separate(target: np.ndarray, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight float64 (D,) and bias, 0-d, of the plane between two sets of features."""
    rows = np.concatenate([target, pool]).astype(np.float64)
    centre, scale = rows.mean(0), rows.std(0) + 1e-6
    # Strongly regularised: of few images it is the direction between the two means.
    fitted = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    fitted.fit((rows - centre) / scale, np.repeat([1, 0], [len(target), len(pool)]))
    weight = fitted.coef_[0] / scale
    return weight, fitted.intercept_[0] - weight @ centre


class Nearest(Likeness):
    """Mean cosine to the five nearest images in the other half of the target."""

    def __init__(self, target: np.ndarray, target_half: np.ndarray) -> None:
        self.halves = [torch.from_numpy(target[target_half == half]) for half in (0, 1)]

    def __call__(self, features: Tensor, half: Tensor) -> Tensor:
        scores = torch.empty(len(features), device=features.device)
        for number, rows in enumerate(self.halves):
            asked = half == 1 - number
            cosines = features[asked] @ rows.to(features.device).T
            scores[asked] = cosines.topk(min(_NEAREST, len(rows)), dim=1).values.mean(dim=1)
        return scores
