"""Retrieval metrics under the Market-1501 protocol: CMC, mAP and mINP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.blocks import DistanceBlocks
from transreid_ssl.retrieval.matches import Matches, Pairs
from transreid_ssl.retrieval.ranks import ranks
from transreid_ssl.retrieval.reranking import RerankedBlocks, Reranking
from transreid_ssl.words import counted, part_of

PROTOCOL_NOTE = "gallery images of the query's identity and camera are removed"
NO_CAMERAS_NOTE = (
    "no cameras are known, so that nothing is removed from the gallery: a query image that is in "
    "the gallery too is found first, and makes the figures too good"
)


@dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """What a ranking is worth; all rates are fractions of the valid queries.

    Attributes:
        mAP: mean average precision.
        cmc: float64 (max_rank,); ``cmc[k - 1]`` is the part of queries with a match in the first k.
        mINP: mean inverse negative penalty (Ye et al., "Deep Learning for Person
            Re-identification", 2021, section 4.2): matches over the rank of the last one.
        num_queries: queries given; num_valid_queries: those with a match left in the gallery.
        num_gallery: gallery rows, distractors and all.
        cameras_used: whether rows of the query's camera were removed; ``note`` says it in words.
        average_precision: float64 (num_queries,), NaN for queries without a match.
    """

    mAP: float
    cmc: np.ndarray
    mINP: float
    num_queries: int
    num_valid_queries: int
    num_gallery: int
    cameras_used: bool
    note: str
    average_precision: np.ndarray | None = field(default=None, repr=False)

    def rank(self, k: int) -> float:
        """The CMC value at rank ``k`` (from 1)."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(
                f"rank {k} is outside 1..{len(self.cmc)}, the computed part of the CMC"
            )
        return float(self.cmc[k - 1])

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        shown = {f"rank-{k}": self.rank(k) for k in (1, 5, 10, 20) if k <= len(self.cmc)}
        names = ("num_queries", "num_valid_queries", "num_gallery", "cameras_used", "note")
        counts = {name: getattr(self, name) for name in names}
        return {"mAP": self.mAP, **shown, "mINP": self.mINP, **counts}

    def table(self, name: str = "model") -> str:
        """The figures for people, in percent."""
        return format_table({name: self})


def format_table(results: Mapping[str, RetrievalMetrics]) -> str:
    """One line for each named result, in percent, and what was counted under them."""
    width = max(len(name) for name in results)
    shortest = min(len(metrics.cmc) for metrics in results.values())
    shown = [k for k in (1, 5, 10) if k <= shortest]
    titles = ["mAP", *(f"rank-{k}" for k in shown), "mINP"]
    lines = [" " * width + "".join(f"{title:>9}" for title in titles)]
    for name, metrics in results.items():
        values = [metrics.mAP, *(metrics.rank(k) for k in shown), metrics.mINP]
        lines.append(f"{name:<{width}}" + "".join(f"{100 * value:>8.1f}%" for value in values))
    one = next(iter(results.values()))
    lines.append(
        part_of(one.num_valid_queries, one.num_queries, "query", "queries", verb="has/have")
        + f" a match among {counted(one.num_gallery, 'gallery image')}; {one.note}"
    )
    return "\n".join(lines)


def evaluate(
    query_features: Tensor | np.ndarray,
    query_ids: Any,
    query_cams: Any,
    gallery_features: Tensor | np.ndarray,
    gallery_ids: Any,
    gallery_cams: Any,
    *,
    max_rank: int = 50,
    metric: str = "cosine",
    rerank: Reranking | None = None,
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> RetrievalMetrics:
    """CMC, mAP and mINP of ranking the gallery by distance (Zheng et al., ICCV 2015, section 4).

    For a query, gallery rows of its identity *and* camera are removed; rows of identity -1 are
    distractors, wrong for everyone; queries without a match are left out of the means. Equal
    distances rank by gallery row. Only the ranks of matches are wanted, so they are counted:
    time is one product and about one comparison a match over each row; memory is one block.

    Args:
        query_features, gallery_features: (Q, D), (G, D) arrays or tensors of any float type.
        query_ids, gallery_ids: integers (Q,), (G,).
        query_cams, gallery_cams: integers, or both None: then nothing is removed.
        metric: "cosine" or "euclidean"; the same ranking where features have unit length.
        rerank: re-rank the gallery by k-reciprocal neighbours first, with these settings.
        chunk: queries in a block; the default keeps a block of distances within 32 MB on a CPU.

    Raises:
        ValueError: shapes that disagree.
        UserError: features that are not finite, no query with a match, or fewer images than
            re-ranking asks for.
    """
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, not {max_rank}")
    matches = Matches(query_ids, query_cams, gallery_ids, gallery_cams)
    matches.check(len(query_features), len(gallery_features))
    sides = query_features, gallery_features
    choices = {"metric": metric, "chunk": chunk, "device": device}
    if rerank is None:
        blocks = DistanceBlocks(*sides, **choices)
    else:
        blocks = RerankedBlocks(*sides, rerank, **choices)
    outcomes = np.full((3, len(query_features)), np.nan)  # average precision, first rank, INP
    for start, block in blocks:
        stop = start + len(block)
        outcomes[:, start:stop] = _outcomes(block, matches.pairs(start, stop))
    average_precision, first_rank, inverse_penalty = outcomes
    found_by = first_rank[:, None] <= np.arange(1, max_rank + 1)  # (Q, max_rank)
    return summarise(average_precision, found_by, inverse_penalty, matches)


def _outcomes(block: Tensor, pairs: Pairs) -> np.ndarray:
    """Average precision, rank of the first match and INP of each query: (3, B), NaN if no match."""
    rows, columns = torch.from_numpy(pairs.rows), torch.from_numpy(pairs.columns)
    distances = block[rows.to(block.device), columns.to(block.device)].cpu().numpy()
    order = np.lexsort((pairs.columns, distances, pairs.rows))  # as the gallery would be sorted
    rows, columns, junk = pairs.rows[order], pairs.columns[order], pairs.junk[order]
    junk_before = _running_count(rows, junk)[~junk]
    rows, columns = rows[~junk], columns[~junk]
    rank = ranks(block, rows, columns) - junk_before  # from 0
    found = _running_count(rows, np.ones(len(rows), bool)) + 1
    total = np.bincount(rows, minlength=len(block)).astype(np.float64)
    total[total == 0] = np.nan
    first, last = found == 1, found == total[rows]
    result = np.full((3, len(block)), np.nan)
    result[0] = np.bincount(rows, found / (rank + 1), minlength=len(block)) / total
    result[1, rows[first]] = rank[first] + 1
    result[2, rows[last]] = found[last] / (rank[last] + 1)
    return result


def _running_count(rows: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """For each entry, the flags set before it in its own row; ``rows`` ascend."""
    before = np.cumsum(flags) - flags
    starts = np.searchsorted(rows, rows, side="left")
    return before - before[starts]


def summarise(
    average_precision: np.ndarray,
    found_by: np.ndarray,
    inverse_penalty: np.ndarray,
    matches: Matches,
) -> RetrievalMetrics:
    """Means over the queries whose average precision is not NaN.

    Args:
        average_precision, inverse_penalty: (Q,).
        found_by: (Q, max_rank), 1 (or the probability) where a match is among the first k.
    """
    valid = ~np.isnan(average_precision)
    if not valid.any():
        raise UserError(
            f"none of the {counted(len(valid), 'query', 'queries')} has a match in the gallery of "
            f"{len(matches.gallery_ids)}: check that both come from one data set, and the cameras"
        )
    return RetrievalMetrics(
        mAP=float(average_precision[valid].mean()),
        cmc=found_by[valid].mean(0, dtype=np.float64),
        mINP=float(inverse_penalty[valid].mean()),
        num_queries=len(valid),
        num_valid_queries=int(valid.sum()),
        num_gallery=len(matches.gallery_ids),
        cameras_used=matches.cameras_used,
        note=PROTOCOL_NOTE if matches.cameras_used else NO_CAMERAS_NOTE,
        average_precision=average_precision,
    )
