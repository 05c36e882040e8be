"""Nearest neighbours, exact unless asked otherwise, and ranked galleries, in blocks."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.retrieval.approximate import Graph, approximate_rows
from transreid_ssl.retrieval.blocks import DistanceBlocks, ordered_keys
from transreid_ssl.retrieval.matches import DISTRACTOR, Matches

SEARCHES = ("exact", "approximate")


def nearest_neighbours(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray | None = None,
    *,
    k: int,
    metric: str = "cosine",
    exclude_self: bool = False,
    search: str | Graph = "exact",
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest gallery rows of each query, nearest first, equal distances by lowest row.

    Memory is the features, the result and one block of distances. Nothing is approximate
    by default: for tens of thousands of rows a matrix product is as fast.

    Args:
        queries: (Q, D).
        gallery: (G, D); None searches among the queries themselves.
        k: neighbours; capped at the rows there are.
        metric: "cosine" (1 - cosine similarity) or "euclidean".
        exclude_self: without a gallery, leave each row out of its own list. Otherwise it stands
            there, first unless an equal row lies before it.
        search: "exact", or "approximate" for hundreds of thousands of rows: faiss proposes rows on
            the CPU, from a graph that takes time to build and memory for a copy of the gallery;
            their distances are exact, and the list may lack some of the nearest. A ``Graph`` that
            was made of the gallery's rows earlier is taken instead of a new one.

    Returns:
        distances float32 (Q, k) and rows int64 (Q, k), on the CPU.

    Raises:
        ValueError: ``exclude_self`` with a gallery, ``k`` below 1, shapes that disagree, an unknown
            ``search``.
        UserError: features that are not finite, or an approximate search without faiss.
    """
    if exclude_self and gallery is not None:
        raise ValueError("exclude_self is for a search among the queries: give no gallery")
    blocks = DistanceBlocks(
        queries, queries if gallery is None else gallery, metric=metric, chunk=chunk, device=device
    )
    k = min(k, len(blocks.gallery) - exclude_self)
    if k < 1:
        raise ValueError("k must be at least 1, and there must be a row to find")
    distances = torch.empty(len(blocks.queries), k)
    rows = torch.empty(len(blocks.queries), k, dtype=torch.int64)
    own = torch.inf if exclude_self else None
    for start, values, columns in search_rows(blocks, k, own=own, search=search):
        distances[start : start + len(values)] = blocks.distances(start, values)
        rows[start : start + len(values)] = columns
    return distances, rows


def search_rows(
    blocks: DistanceBlocks, k: int, *, own: float | None = None, search: str | Graph = "exact"
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield ``(start, values, rows)``, both (B, k): the ``k`` nearest rows of each query in order.

    Args:
        own: what stands for a row's distance to itself in a search among the queries: -inf puts it
            first, inf last.
        search: one of ``SEARCHES``, or a graph of the gallery.
    """
    if isinstance(search, Graph):
        yield from approximate_rows(blocks, k, own, search)
        return
    if search not in SEARCHES:
        raise ValueError(f"search must be one of {', '.join(SEARCHES)}, not {search!r}")
    if search == "approximate":
        yield from approximate_rows(blocks, k, own)
        return
    yield from exact_rows(blocks, k, own)


def exact_rows(
    blocks: Iterable[tuple[int, Tensor]], k: int, own: float | None = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The same from each block of distances as it comes."""
    for start, block in blocks:
        if own is not None:
            block.diagonal(start).fill_(own)
        yield start, *smallest(block, k)


def ranked_gallery(
    query_features: Tensor | np.ndarray,
    query_ids: Any,
    query_cams: Any,
    gallery_features: Tensor | np.ndarray,
    gallery_ids: Any,
    gallery_cams: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a search shows: the first ``k`` gallery rows of each query under the protocol.

    Arguments and errors are those of :func:`~transreid_ssl.retrieval.evaluate`.

    Returns:
        distances float32 (Q, k), rows int64 (Q, k), and bool (Q, k): of the query's identity.
        Removed rows come last, at an infinite distance.
    """
    matches = Matches(query_ids, query_cams, gallery_ids, gallery_cams)
    matches.check(len(query_features), len(gallery_features))
    blocks = DistanceBlocks(
        query_features, gallery_features, metric=metric, chunk=chunk, device=device
    )
    found: list[tuple[Tensor, Tensor]] = []
    for start, block in blocks:
        pairs = matches.pairs(start, start + len(block))
        junk = [torch.from_numpy(part[pairs.junk]) for part in (pairs.rows, pairs.columns)]
        block[junk[0].to(block.device), junk[1].to(block.device)] = torch.inf
        values, columns = smallest(block, min(k, block.shape[1]))
        found.append((blocks.distances(start, values).cpu(), columns.cpu()))
    distances, rows = (torch.cat(parts) for parts in zip(*found))
    ids = torch.from_numpy(matches.query_ids)[:, None]
    correct = (torch.from_numpy(matches.gallery_ids)[rows] == ids) & (ids != DISTRACTOR)
    return distances, rows, correct & distances.isfinite()


def smallest(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first ``k`` columns of a stable sort of each row: values (B, k) and columns (B, k)."""
    if block.device.type == "cpu":
        columns = torch.from_numpy(np.stack([_smallest_of_row(row, k) for row in block.numpy()]))
    else:
        columns = _smallest_by_keys(block, k)
    return block.gather(1, columns), columns


def _smallest_by_keys(block: Tensor, k: int) -> Tensor:
    """For accelerators, which select among equal values in any order: no two keys are equal."""
    return ordered_keys(block).topk(k, dim=1, largest=False, sorted=True).values & 0xFFFFFFFF


def _smallest_of_row(row: np.ndarray, k: int) -> np.ndarray:
    """A partition of the values finds the k-th, and with it the few columns that need sorting."""
    kth = np.partition(row, k - 1)[k - 1]
    candidates = np.flatnonzero(row <= kth)
    return candidates[np.argsort(row[candidates], kind="stable")[:k]]
