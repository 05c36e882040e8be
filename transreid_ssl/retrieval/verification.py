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


def operating_points(
    query_features: Tensor | np.ndarray,
    query_ids: Any,
    query_cams: Any,
    gallery_features: Tensor | np.ndarray,
    gallery_ids: Any,
    gallery_cams: Any,
    *,
    false_positive_rates: Sequence[float] = (1e-4, 1e-3, 1e-2),
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> dict[float, OperatingPoint]:
    """The true positive rate at each false positive rate, over all pairs of query and gallery row.

    A pair is accepted when its cosine similarity is above a threshold; for each false positive rate
    the threshold is the lowest that keeps within it. Similarities are counted in 2^20 bins of
    [-1, 1], so memory does not grow with the number of pairs and a threshold is exact to 2e-6.
    Pairs of one identity and camera are left out, pairs with a distractor are of different people.

    Raises:
        ValueError: shapes that disagree, or a rate outside 0..1.
        UserError: features that are not finite, no pair of one person or none of two.
    """
    if not all(0 <= rate <= 1 for rate in false_positive_rates):
        raise ValueError(f"false positive rates lie in 0..1, not {list(false_positive_rates)}")
    matches = Matches(query_ids, query_cams, gallery_ids, gallery_cams)
    matches.check(len(query_features), len(gallery_features))
    negatives, positives = np.zeros((2, BINS), np.int64)
    for start, block in DistanceBlocks(
        query_features, gallery_features, chunk=chunk, device=device
    ):
        pairs = matches.pairs(start, start + len(block))
        bins = block.add_(1).mul_(BINS / 2).clamp_(0, BINS - 1).to(torch.int32)
        rows, columns = (torch.from_numpy(a).to(block.device) for a in (pairs.rows, pairs.columns))
        same = bins[rows, columns].cpu().numpy()
        negatives += torch.bincount(bins.flatten(), minlength=BINS).cpu().numpy()
        negatives -= np.bincount(same, minlength=BINS)
        positives += np.bincount(same[~pairs.junk], minlength=BINS)
    if not positives.any() or not negatives.any():
        raise UserError(
            "verification needs pairs of one person and pairs of two: check the gallery"
        )
    # Shares of the pairs in the first b bins.
    false_alarms = np.concatenate([[0], np.cumsum(negatives)]) / negatives.sum()
    accepted = np.concatenate([[0], np.cumsum(positives)]) / positives.sum()
    # The most bins, nearest first, whose false alarms keep within the rate.
    cuts = np.searchsorted(false_alarms, false_positive_rates, side="right") - 1
    return {
        rate: OperatingPoint(float(accepted[cut]), 1 - float(cut) * 2 / BINS)
        for rate, cut in zip(false_positive_rates, cuts)
    }
