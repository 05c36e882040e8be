"""Verification: how many same-person pairs are accepted at a given rate of false alarms."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.blocks import DistanceBlocks
from transreid_ssl.retrieval.matches import Matches

BINS = 1 << 20


class OperatingPoint(NamedTuple):
    """What a threshold does: the part of the pairs of one person whose cosine is above it."""

    accepted: float
    threshold: float


class PairCounts(NamedTuple):
    """How many pairs of one person, and of two, have which cosine: int64 (BINS,) each.

    The bins go down from 1 to -1, so memory does not grow with the number of pairs. They are as
    wide as one another in the distance of unit features, since some networks' cosines all lie near
    1: a threshold is exact to 4e-6, and near 1 as exact as float32.
    """

    same: np.ndarray
    different: np.ndarray

    @classmethod
    def of(cls, same: np.ndarray, different: np.ndarray) -> "PairCounts":
        """The counts of the cosines float (S,) and (D,) of single pairs."""
        distances = (np.sqrt(np.clip((1 - kind) / 2, 0, 1)) for kind in (same, different))
        bins = (np.clip(kind * BINS, 0, BINS - 1) for kind in distances)
        return cls(*(np.bincount(kind.astype(np.int64), minlength=BINS) for kind in bins))

    def thresholds(self, rates: Sequence[float]) -> np.ndarray:
        """The lowest cosines float64 (R,) that these shares of pairs of two people exceed at most.

        Only whole bins are taken: a threshold is an edge between two.
        """
        shares = np.concatenate([[0], np.cumsum(self.different)]) / self.different.sum()
        return cosine_at(np.searchsorted(shares, rates, side="right") - 1)

    def above(self, threshold: float) -> tuple[float, float]:
        """The shares of the pairs of one person and of two whose cosine is above a threshold."""
        cut = round(np.sqrt((1 - threshold) / 2) * BINS)
        same, different = (float(kind[:cut].sum() / kind.sum()) for kind in self)
        return same, different


def cosine_at(bins: Any) -> Any:
    """The cosine at the beginning of a bin; at half a bin more that in its middle."""
    return 1 - 2 * (bins / BINS) ** 2


def count_pairs(
    query_features: Tensor | np.ndarray,
    query_ids: Any,
    query_cams: Any,
    gallery_features: Tensor | np.ndarray,
    gallery_ids: Any,
    gallery_cams: Any,
    *,
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> PairCounts:
    """The cosines of all pairs of a query and a gallery row.

    Pairs of one identity and camera are left out, pairs with a distractor are of different people.

    Raises:
        ValueError: shapes that disagree.
        UserError: features that are not finite, no pair of one person or none of two.
    """
    matches = Matches(query_ids, query_cams, gallery_ids, gallery_cams)
    matches.check(len(query_features), len(gallery_features))
    different, same = np.zeros((2, BINS), np.int64)
    for start, block in DistanceBlocks(
        query_features, gallery_features, chunk=chunk, device=device
    ):
        pairs = matches.pairs(start, start + len(block))
        distances = block.add_(1).div_(2).clamp_(0, 1).sqrt_()
        bins = distances.mul_(BINS).clamp_(max=BINS - 1).to(torch.int32)
        rows, columns = (torch.from_numpy(a).to(block.device) for a in (pairs.rows, pairs.columns))
        matching = bins[rows, columns].cpu().numpy()
        different += torch.bincount(bins.flatten(), minlength=BINS).cpu().numpy()
        different -= np.bincount(matching, minlength=BINS)
        same += np.bincount(matching[~pairs.junk], minlength=BINS)
    if not same.any() or not different.any():
        raise UserError(
            "verification needs pairs of one person and pairs of two: check the gallery"
        )
    return PairCounts(same, different)


def operating_points(
    *sides: Any,
    false_positive_rates: Sequence[float] = (1e-4, 1e-3, 1e-2),
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> dict[float, OperatingPoint]:
    """The true positive rate at each false positive rate, over all pairs of query and gallery row.

    A pair is accepted when its cosine similarity is above a threshold; for each false positive rate
    the threshold is the lowest that keeps within it. Arguments and errors are those of
    ``count_pairs``, and:

    Raises:
        ValueError: a rate outside 0..1.
    """
    if not all(0 <= rate <= 1 for rate in false_positive_rates):
        raise ValueError(f"false positive rates lie in 0..1, not {list(false_positive_rates)}")
    counts = count_pairs(*sides, chunk=chunk, device=device)
    thresholds = counts.thresholds(false_positive_rates).tolist()
    return {
        rate: OperatingPoint(counts.above(threshold)[0], threshold)
        for rate, threshold in zip(false_positive_rates, thresholds)
    }
