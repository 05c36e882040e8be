"""Exact nearest neighbours, in blocks."""

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.retrieval.blocks import DistanceBlocks, ordered_keys


def nearest_neighbours(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray | None = None,
    *,
    k: int,
    metric: str = "cosine",
    exclude_self: bool = False,
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest gallery rows of each query, nearest first, equal distances by lowest row.

    Memory is the features, the result and one block of distances; nothing is approximate.

    Args:
        queries: (Q, D).
        gallery: (G, D); None searches among the queries themselves.
        k: neighbours; capped at the rows there are.
        metric: "cosine" (1 - cosine similarity) or "euclidean".
        exclude_self: without a gallery, leave each row out of its own list. Otherwise it stands
            there, first unless an equal row lies before it.

    Returns:
        distances float32 (Q, k) and rows int64 (Q, k), on the CPU.

    Raises:
        ValueError: ``exclude_self`` with a gallery, ``k`` below 1, shapes that disagree.
        UserError: features that are not finite.
    """
    if exclude_self and gallery is not None:
        raise ValueError("exclude_self is for a search among the queries: give no gallery")
    blocks = DistanceBlocks(
        queries,
        queries if gallery is None else gallery,
        metric=metric,
        chunk=chunk,
        device=device,
    )
    k = min(k, len(blocks.gallery) - exclude_self)
    if k < 1:
        raise ValueError("k must be at least 1, and there must be a row to find")
    distances = torch.empty(len(blocks.queries), k)
    rows = torch.empty(len(blocks.queries), k, dtype=torch.int64)
    for start, block in blocks:
        if exclude_self:
            block.diagonal(start).fill_(torch.inf)
        values, columns = smallest(block, k)
        distances[start : start + len(block)] = blocks.distances(start, values)
        rows[start : start + len(block)] = columns
    return distances, rows


def smallest(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first ``k`` columns of a stable sort of each row: values (B, k) and columns (B, k)."""
    if block.device.type == "cpu":
        columns = torch.from_numpy(np.stack([_smallest_of_row(row, k) for row in block.numpy()]))
    else:
        keys = ordered_keys(block).topk(k, dim=1, largest=False, sorted=True).values
        columns = keys & 0xFFFFFFFF
    return block.gather(1, columns), columns


def _smallest_of_row(row: np.ndarray, k: int) -> np.ndarray:
    """A partition of the values finds the k-th, and with it the few columns that need sorting."""
    kth = np.partition(row, k - 1)[k - 1]
    candidates = np.flatnonzero(row <= kth)
    return candidates[np.argsort(row[candidates], kind="stable")[:k]]
