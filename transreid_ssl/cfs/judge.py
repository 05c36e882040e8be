"""Does a score know the target? Judged on images of the target that had no part in making it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

_KNOWS = 0.55
"""Below, the order of two images says little more than a coin."""


@dataclass(frozen=True)
class Judgement:
    """How well scores tell the target from the pool.

    Attributes:
        auc: how often an image of the target is scored above one of the pool; 0.5 is chance.
        low, high: its interval of 95 % (Hanley and McNeil, Radiology 143, 1982).
        images: of the target, that it was judged on.
    """

    auc: float
    low: float
    high: float
    images: int

    @property
    def knows(self) -> bool:
        """Whether the score puts the target above the pool, chance and rounding aside."""
        return self.low > 0.5 and self.auc >= _KNOWS

    def __str__(self) -> str:
        pairs = f"{100 * self.auc:.0f} of 100 pairs ({100 * self.low:.0f} to {100 * self.high:.0f})"
        ranks = f"an image of the target is scored above one of the pool in {pairs}"
        if self.knows:
            return f"this score knows your target: {ranks}"
        return (
            f"this score does not know your target: {ranks}; selecting by it is no better than "
            "chance, unless all of the pool is of the target, where nothing is to be gained"
        )


def judge(target: np.ndarray, pool: np.ndarray) -> Judgement:
    """Judge scores float (M,) of the target's images and float (N,) of the pool's.

    Images without a score (NaN) are passed over.

    Raises:
        ValueError: one of them holds no score.
    """
    target, pool = (values[np.isfinite(values)] for values in (target, pool))
    if not len(target) or not len(pool):
        raise ValueError("scores of the target and of the pool are needed")
    of_target = np.repeat([1, 0], [len(target), len(pool)])
    auc = float(roc_auc_score(of_target, np.concatenate([target, pool])))
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (len(target) - 1) * (q1 - auc**2) + (len(pool) - 1) * (q2 - auc**2)
    reach = 1.96 * math.sqrt(max(0.0, variance) / (len(target) * len(pool)))
    return Judgement(auc, max(0.0, auc - reach), min(1.0, auc + reach), len(target))


def recorded(record: dict[str, Any]) -> Judgement | None:
    """The judgement that a table of scores remembers, if its scoring was given a target."""
    known = record.get("judgement")
    return Judgement(**known) if isinstance(known, dict) else None
