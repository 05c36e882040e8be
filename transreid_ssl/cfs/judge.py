"""Does a score know the target? Judged by images of the target."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

_KNOWS = 0.6
"""Below, there is little to gain: other people of the same place are told from those of the pool by
as much (0.57 was seen), and of a pool that is target by four fifths this is the most."""
_CLOSE = 0.03
"""Two such figures that differ by less are told as one."""
_DOUBT = 0.05
"""How sure the estimate of the target's share is: the chance that a bound on a rate is broken."""


@dataclass(frozen=True)
class Judgement:
    """How well scores tell the target from the pool.

    Attributes:
        auc: how often an image of the target is scored above one of the pool; 0.5 is chance.
        low, high: its interval of 95 % (Hanley and McNeil, Radiology 143, 1982).
        images: of the target, that it was judged on.
        separable: the same figure of a density ratio that is learnt from features: what a score can
            know at least. None where there were no features to learn from.
        share: of the pool, that resembles the target, as ``target_share`` estimates it.
        found: 101 values: the share of the target's images that score as high as the best 0, 1, …
            100 % of the pool. What the best n % of the pool keep of what resembles the target.
    """

    auc: float
    low: float
    high: float
    images: int
    separable: float | None = None
    share: float = 1.0
    found: tuple[float, ...] = ()

    @property
    def knows(self) -> bool:
        """Whether the score puts the target above the pool, chance and rounding aside."""
        return self.low > 0.5 and self.auc >= _KNOWS

    @property
    def nothing_to_gain(self) -> bool:
        """Whether not even features tell the target's images from the pool's."""
        return not self.knows and self.separable is not None and self.separable < _KNOWS

    @property
    def overlooks(self) -> bool:
        """Whether features tell the target's images well, which this score does not."""
        if self.knows or self.separable is None or self.separable < _KNOWS:
            return False
        sure = self.separable - _reach(self.separable, self.images, self.images) > 0.5
        return sure and self.separable > self.auc + _CLOSE

    def kept(self, keep: float) -> float:
        """What the best ``keep``, in [0, 1], of the pool keeps of what resembles the target."""
        return float(np.interp(keep, np.linspace(0, 1, len(self.found)), self.found))

    def expected_share(self, keep: float) -> float:
        """Which share of the best ``keep``, in (0, 1], of the pool resembles the target."""
        return min(1.0, self.share * self.kept(keep) / keep)

    def largest(self, share: float) -> float | None:
        """The largest part of the pool, in (0, 1], with ``share`` of the target; None: no part."""
        parts = np.arange(1, 101) / 100
        fits = [part for part in parts if self.expected_share(part) >= share]
        return float(fits[-1]) if fits else None

    def __str__(self) -> str:
        pairs = f"{100 * self.auc:.0f} of 100 pairs ({100 * self.low:.0f} to {100 * self.high:.0f})"
        ranks = f"an image of the target is scored above one of the pool in {pairs}"
        if self.knows:
            text = f"this score knows your target: {ranks}"
            if self.found:
                text += (
                    f"; the best half of the pool keeps {self.kept(0.5):.0%} of what resembles it, "
                    f"{self.kept(0.5) / 0.5:.1f} times as much as a random half"
                )
            return text
        if self.nothing_to_gain:
            return (
                f"nothing is to be gained here, or little: {ranks}, and to the pre-trained network "
                "the pool looks as your target does; keep all of it"
            )
        if self.separable is not None and not self.overlooks:
            return f"too close to call: {ranks}; give more images of the target"
        text = (
            f"this score does not know your target: {ranks}; selecting by it is no better than "
            "chance"
        )
        if self.separable is None:
            return f"{text}, unless all of the pool is of the target, where nothing is to be gained"
        return (
            f"{text}, though a density ratio of the same features puts it first in "
            f"{100 * self.separable:.0f} of 100: use --method density-ratio"
        )


def area_under_roc(target: np.ndarray, pool: np.ndarray) -> float:
    """How often a score of float (M,) is above one of float (N,); a tie counts half."""
    from sklearn.metrics import roc_auc_score

    of_target = np.repeat([1, 0], [len(target), len(pool)])
    return float(roc_auc_score(of_target, np.concatenate([target, pool])))


def judge(target: np.ndarray, pool: np.ndarray, separable: float | None = None) -> Judgement:
    """Judge scores float (M,) of the target's images and float (N,) of the pool's.

    Images without a score (NaN) are passed over.

    Args:
        separable: see ``Judgement``.

    Raises:
        ValueError: one of them holds no score.
    """
    target, pool = (np.sort(values[np.isfinite(values)]) for values in (target, pool))
    if not len(target) or not len(pool):
        raise ValueError("scores of the target and of the pool are needed")
    auc = area_under_roc(target, pool)
    reach = _reach(auc, len(target), len(pool))
    return Judgement(
        auc, max(0.0, auc - reach), min(1.0, auc + reach), len(target), separable,
        target_share(target, pool), _found(target, pool),
    )  # fmt: skip


def _reach(auc: float, positives: int, negatives: int) -> float:
    """Half the width of the interval of 95 % (Hanley and McNeil)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return 1.96 * math.sqrt(max(0.0, variance) / (positives * negatives))


def target_share(target: np.ndarray, pool: np.ndarray) -> float:
    """About which share of the pool resembles the target, from sorted scores of both.

    If a share s of the pool is like the target, a cut that a share f of the target's images pass is
    passed by s f of the pool's at least. So s is at most the smallest ratio of the two shares over
    all cuts; the cut is chosen by that ratio's upper bound, so that chance among few images does
    not choose it (Garg et al., "Mixture proportion estimation", NeurIPS 2021).
    """
    cuts = np.unique(target)
    passed = [1 - np.searchsorted(scores, cuts) / len(scores) for scores in (target, pool)]
    doubts = [math.sqrt(math.log(4 / _DOUBT) / (2 * len(scores))) for scores in (target, pool)]
    sure = passed[0] > 2 * doubts[0]
    if not sure.any():
        return 1.0
    theirs, ours = (values[sure] for values in passed)
    best = np.argmin((ours + doubts[1]) / (theirs - doubts[0]))
    return float(min(1.0, ours[best] / theirs[best]))


def _found(target: np.ndarray, pool: np.ndarray) -> tuple[float, ...]:
    """See ``Judgement.found``; of sorted scores. Of equal ones as many count as are kept."""
    places = np.round(np.linspace(0, len(pool), 101)).astype(int)
    shares = [0.0]
    for kept in places[1:]:
        cut = pool[len(pool) - kept] if kept else np.inf
        above = len(target) - np.searchsorted(target, cut, side="right")
        equal = np.searchsorted(target, cut, side="right") - np.searchsorted(target, cut)
        ours = len(pool) - np.searchsorted(pool, cut, side="right")
        level = np.searchsorted(pool, cut, side="right") - np.searchsorted(pool, cut)
        part = (kept - ours) / level if level else 0.0
        shares.append(float((above + part * equal) / len(target)))
    return (*shares[:-1], 1.0)  # all of the pool keeps all


def recorded(record: dict[str, Any]) -> Judgement | None:
    """The judgement that a table of scores remembers, if its scoring was given a target."""
    known = record.get("judgement")
    if not isinstance(known, dict):
        return None
    names = {field.name for field in fields(Judgement)}
    return Judgement(**{name: value for name, value in known.items() if name in names})
