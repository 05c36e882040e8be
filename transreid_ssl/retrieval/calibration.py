"""What cosines mean: the probability of one person, and thresholds at rates of false matches."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.verification import BINS, PairCounts, cosine_at

FALSE_MATCHES = 10
"""Of pairs of two people that have to be above a threshold, at least, for it to be known."""


def fit_probability(counts: PairCounts) -> tuple[float, float]:
    """Slope and intercept of the log odds of one person, by logistic regression on the cosine.

    Pairs of one person and of two weigh the same as a whole: at any other prior odds p, log(p) is
    to be added. The ridge of scikit-learn's default keeps the slope finite where the two do not
    overlap, and counts for little from some hundred pairs of one person on.

    Raises:
        UserError: the probability would fall with the cosine.
    """
    # Here, since few programs that import the room calibrate: scikit-learn takes a second.
    from sklearn.linear_model import LogisticRegression

    bins = [np.flatnonzero(kind) for kind in counts]
    cosines = cosine_at(np.concatenate(bins) + 0.5)
    is_same = np.arange(len(cosines)) < len(bins[0])
    weights = np.concatenate([kind[used] / kind.sum() for kind, used in zip(counts, bins)])
    # Some networks' cosines all lie within a hundredth: the ridge must not depend on that.
    mean = np.average(cosines, weights=weights)
    spread = np.sqrt(np.average((cosines - mean) ** 2, weights=weights)) or 1.0
    model = LogisticRegression()
    model.fit((cosines[:, None] - mean) / spread, is_same, weights * counts.same.sum())
    slope = float(model.coef_[0, 0] / spread)
    if slope <= 0:
        raise UserError(
            "pairs of one person are no more alike than pairs of two, to this network: there is "
            "nothing to calibrate; train it, or check the labels"
        )
    return slope, float(model.intercept_[0]) - slope * mean


def known_thresholds(counts: PairCounts, rates: Sequence[float]) -> dict[float, float]:
    """The thresholds at those rates of false matches that there are pairs enough for."""
    enough = [rate for rate in rates if counts.different.sum() * rate >= FALSE_MATCHES]
    return dict(zip(enough, counts.thresholds(enough).tolist()))


class Reliability(NamedTuple):
    """Pairs that were given a probability between two bounds, one person and two weighing alike."""

    low: float
    high: float
    promised: float
    """Their mean probability; NaN without pairs."""
    real: float
    """The share of them that shows one person."""


def reliability(
    counts: PairCounts, slope: float, intercept: float, edges: Sequence[float] | np.ndarray
) -> list[Reliability]:
    """What probabilities are worth, between each two of the ``edges``."""
    cosines = cosine_at(np.arange(BINS) + 0.5)
    probabilities = expit(slope * cosines + intercept)
    same, different = (kind / kind.sum() for kind in counts)
    found = []
    for low, high in pairwise(edges):
        # Of the last two, the upper one belongs to it: odds may be rounded to certainty.
        inside = (probabilities >= low) & ((probabilities < high) | (high == edges[-1]))
        weights = (same + different)[inside]
        total = weights.sum() or np.nan
        promised = float(weights @ probabilities[inside] / total)
        found.append(Reliability(low, high, promised, float(same[inside].sum() / total)))
    return found
