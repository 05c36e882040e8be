"""In which order images are kept. A selection is the front of an order: a smaller one is its part.

An order is int64 (M,): places of images, the first to be kept first.
"""

import heapq

import numpy as np

from transreid_ssl.cfs.groups import by_cluster

_ROWS_A_CLUSTER = 1024
_BLOCK = 2048


def in_turns(order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The first of each group, then the second of each, and so on; the order decides within both.

    Args:
        groups: int64 (N,), the group of each place.
    """
    turn = _turns(groups[order])
    return order[np.argsort(turn, kind="stable")]


def averaged(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each image the mean score, float64 (N,), of its group.

    The sum of a group does not depend on where the others' images stand between its own.

    Args:
        scores: float (N,), finite.
        groups: int64 (N,).
    """
    sums = np.bincount(groups, weights=scores)
    return (sums / np.maximum(1, np.bincount(groups)))[groups]


def bounded(order: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray:
    """The same order, with no group above a ``share`` of any front of it, but for rounding up.

    An image waits until as many are kept as its group needs to be within bounds. It ends where all
    that are left would have to wait for ever.
    """
    # The n-th image of a group, from 0, fits once ceil(share * kept) is above n.
    turns = _turns(groups[order])
    release = np.floor(turns / share + 1e-9).astype(np.int64)
    waiting = np.argsort(release, kind="stable")
    ready: list[int] = []
    kept: list[int] = []
    ahead = 0
    while True:
        while ahead < len(waiting) and release[waiting[ahead]] <= len(kept):
            heapq.heappush(ready, int(waiting[ahead]))
            ahead += 1
        if not ready:
            return order[kept]
        kept.append(heapq.heappop(ready))


def without_near_duplicates(
    order: np.ndarray, features: np.ndarray, rows: np.ndarray, threshold: float, seed: int = 0
) -> np.ndarray:
    """The order without images that look almost like one before them (SemDeDup, Abbas et al. 2023).

    Pairs are looked for within clusters of about a thousand images, so one that a border between
    two clusters parts is not found; with fewer images there is one cluster, and all are.

    Args:
        features: unit features (R, D), in a file or in memory.
        rows: int64 (N,), the row of each place.
        threshold: cosine from which on two images are near-duplicates.
    """
    count = max(1, round(len(order) / _ROWS_A_CLUSTER))
    clusters = np.zeros(len(order), np.int64)
    if count > 1:
        clusters = by_cluster(features, rows[order], count, seed).codes
    return _within(order, features, rows, threshold, clusters)


def without_repeats(
    order: np.ndarray, features: np.ndarray, rows: np.ndarray, threshold: float, tracks: np.ndarray
) -> np.ndarray:
    """The order without images that look almost like one before them in their own track.

    Tracks repeat themselves most, and every pair of one is compared, whichever clusters its images
    would be in. Only the features of one track are in memory at a time.

    Args:
        tracks: int64 (N,), the track of each place.
        features, rows, threshold: as for ``without_near_duplicates``.
    """
    return _within(order, features, rows, threshold, tracks[order])


def _within(
    order: np.ndarray, features: np.ndarray, rows: np.ndarray, threshold: float, groups: np.ndarray
) -> np.ndarray:
    """The order without near-duplicates of one before them in its group, of ``groups`` (M,)."""
    drop = np.zeros(len(order), bool)
    members = np.argsort(groups, kind="stable")  # within a group, in order
    for part in np.split(members, np.flatnonzero(np.diff(groups[members])) + 1):
        if len(part) > 1:
            drop[part] = _repeats(features, rows[order[part]], threshold)
    return order[~drop]


def _repeats(features: np.ndarray, rows: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each of these rows, bool (M,), is almost one before it."""
    found = np.asarray(features[np.sort(rows)], dtype=np.float32)
    found = found[np.argsort(np.argsort(rows))]
    repeats = np.zeros(len(rows), bool)
    for start in range(0, len(rows), _BLOCK):
        block = found[start : start + _BLOCK]
        for other in range(0, start + len(block), _BLOCK):
            # Equal unit features have a product that may round to less than 1.
            close = block @ found[other : other + _BLOCK].T >= threshold - 1e-6
            if other == start:
                close = np.tril(close, -1)
            repeats[start : start + len(block)] |= close.any(axis=1)
    return repeats


def _turns(groups: np.ndarray) -> np.ndarray:
    """How many of its group stand before each of ``groups`` int64 (M,)."""
    order = np.argsort(groups, kind="stable")
    counts = np.bincount(groups)
    turns = np.empty(len(groups), np.int64)
    turns[order] = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turns
