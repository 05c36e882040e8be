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
from torch import Tensor, nn

Method = Literal["density-ratio", "nearest"]
_NEAREST = 5


def halves(count: int, seed: int) -> np.ndarray:
    """The half, 0 or 1, that each of ``count`` images is in, int64 (count,)."""
    return np.random.default_rng(seed).permutation(count) % 2


class Likeness(nn.Module, ABC):
    """A score of features: the higher, the more like the target."""

    def forward(self, features: Tensor, half: Tensor) -> Tensor:
        """Scores float32 (B,) of unit features (B, D), each by what the other half has taught.

        Args:
            features: float32 (B, D), of the pool or of the target.
            half: int64 (B,), which half each is in.
        """
        return self.by_half(features).gather(1, 1 - half[:, None])[:, 0]

    @abstractmethod
    def by_half(self, features: Tensor) -> Tensor:
        """Scores float32 (B, 2), by what the first half has taught and by the second."""


class DensityRatio(Likeness):
    """Log-odds of a logistic regression between target and pool, equally many of both.

    With enough of both it is the logarithm of the ratio of their densities.

    Args:
        target: unit features float32 (M, D) of the target.
        target_half: int64 (M,), which half each is in.
        pool, pool_half: the same (N, D) and (N,) of some of the pool.
    """

    def __init__(
        self, target: np.ndarray, target_half: np.ndarray, pool: np.ndarray, pool_half: np.ndarray
    ) -> None:
        super().__init__()
        planes = [_separate(target[target_half == h], pool[pool_half == h]) for h in (0, 1)]
        weight, bias = (np.stack(values).astype(np.float32) for values in zip(*planes))
        self.register_buffer("weight", torch.from_numpy(weight))  # (2, D)
        self.register_buffer("bias", torch.from_numpy(bias))  # (2,)

    def by_half(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias


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
    """Mean cosine to the five nearest images of the target; arguments as of ``DensityRatio``."""

    def __init__(self, target: np.ndarray, target_half: np.ndarray) -> None:
        super().__init__()
        for half in (0, 1):
            self.register_buffer(f"target_{half}", torch.from_numpy(target[target_half == half]))

    def by_half(self, features: Tensor) -> Tensor:
        cosines = [features @ rows.T for rows in (self.target_0, self.target_1)]
        best = [values.topk(min(_NEAREST, values.shape[1]), dim=1).values for values in cosines]
        return torch.stack([values.mean(dim=1) for values in best], dim=1)
