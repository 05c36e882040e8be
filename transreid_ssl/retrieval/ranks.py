"""The ranks of a few gallery rows by counting what lies before them: the gallery is not sorted."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.retrieval.blocks import ordered_keys

# Sorting values costs about as much as this many passes that compare them with one of them: numpy
# sorts with vector instructions (for positions, as argsort sorts, it takes several times as long).
PASSES_OF_A_SORT = 30
FEW_POSITIVES = 4  # a pass for each is cheaper than looking for the nearer values first
MAX_THREADS = 8  # above that they wait for one another


def ranks(block: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How many columns of its row a stable sort would put before each pair ``(row, column)``.

    Args:
        block: distances (B, G) float32.
        rows, columns: int64 (M,), ``rows`` ascending.

    Returns:
        int64 (M,). Equal distances are ordered by column.
    """
    if block.device.type == "cpu":
        return _ranks_by_comparing(block.numpy(), rows, columns)
    return _ranks_by_searching(block, rows, columns)


def _ranks_by_comparing(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """On CPUs, with as many threads as torch uses; numpy lets them run side by side."""
    threads = max(1, min(torch.get_num_threads(), MAX_THREADS, len(block)))
    bounds = np.searchsorted(rows, np.arange(len(block) + 1))
    result = np.empty(len(rows), np.int64)

    def count(part: slice) -> None:
        _count_rows(block[part], columns, bounds[part.start : part.stop + 1].tolist(), result)

    edges = np.linspace(0, len(block), threads + 1).astype(int).tolist()
    parts = [slice(start, stop) for start, stop in pairwise(edges)]
    if threads == 1:
        count(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(count, parts))  # a list, so that errors are raised here
    return result


def _count_rows(
    block: np.ndarray, columns: np.ndarray, bounds: list[int], result: np.ndarray
) -> None:
    """Fill ``result``; the pairs of row i are those from ``bounds[i]`` to ``bounds[i + 1]``."""
    closer = np.empty(block.shape[1], bool)
    for values, start, stop in zip(block, bounds, bounds[1:]):
        chosen = columns[start:stop]
        if len(chosen) > FEW_POSITIVES:
            # Matches lie near the top: what is behind the last of them need not be sorted.
            np.less_equal(values, values[chosen].max(), out=closer)
            if PASSES_OF_A_SORT * np.count_nonzero(closer) < len(chosen) * len(values):
                result[start:stop] = _ranks_in_sorted(values, np.sort(values[closer]), chosen)
                continue
        for pair, column in enumerate(chosen.tolist(), start):
            threshold = values[column]
            np.less_equal(values[:column], threshold, out=closer[:column])
            np.less(values[column:], threshold, out=closer[column:])
            result[pair] = np.count_nonzero(closer)


def _ranks_in_sorted(values: np.ndarray, ordered: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ranks of the ``columns`` of one row, whose smallest values are ``ordered``."""
    thresholds = values[columns]
    result = np.searchsorted(ordered, thresholds, side="left")
    tied = np.searchsorted(ordered, thresholds, side="right") - result > 1
    for pair in np.flatnonzero(tied):
        result[pair] += np.count_nonzero(values[: columns[pair]] == thresholds[pair])
    return result


def _ranks_by_searching(block: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """For accelerators: each distance is looked up among the few of its row, and the hits added."""
    if not len(rows):
        return np.empty(0, np.int64)
    counts = np.bincount(rows, minlength=len(block))
    slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column, slot = (torch.from_numpy(a).to(block.device) for a in (rows, columns, slots))
    keys = ordered_keys(block)  # (B, G)
    last = torch.iinfo(torch.int64).max
    thresholds = keys.new_full((len(block), int(counts.max())), last)  # (B, P)
    thresholds[row, slot] = keys[row, column]
    thresholds, order = thresholds.sort(dim=1)
    bins = torch.searchsorted(thresholds, keys, right=True)  # thresholds that are not behind it
    hits = torch.zeros(len(block), thresholds.shape[1] + 1, dtype=torch.int64, device=block.device)
    hits.scatter_add_(
        1, bins, torch.ones((), dtype=torch.int64, device=block.device).expand_as(bins)
    )
    before = torch.empty_like(thresholds).scatter_(1, order, hits.cumsum(1)[:, :-1])
    return before[row, slot].cpu().numpy()
