"""Which gallery rows a query should find, and which the Market-1501 protocol takes away."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

DISTRACTOR = -1


@dataclass(frozen=True)
class Pairs:
    """The gallery rows with the identity of a block's queries.

    Attributes:
        rows: int64 (M,), the query within the block, ascending.
        columns: int64 (M,), the gallery row, ascending for each query.
        junk: bool (M,), seen by the query's own camera: taken out of the gallery for that query.
    """

    rows: np.ndarray
    columns: np.ndarray
    junk: np.ndarray


class Matches:
    """The pairs of equal identity between queries and gallery, found through a sorted index.

    Args:
        query_ids, gallery_ids: integers (Q,), (G,); -1 is a distractor, which matches nothing.
        query_cams, gallery_cams: integers, or both None: then no row is junk.

    Raises:
        ValueError: lengths that disagree, or cameras on one side only.
    """

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    cameras_used: bool
    query_cams: np.ndarray
    gallery_cams: np.ndarray

    def __init__(
        self, query_ids: Any, query_cams: Any, gallery_ids: Any, gallery_cams: Any
    ) -> None:
        self.query_ids, self.gallery_ids = _labels(query_ids), _labels(gallery_ids)
        if (query_cams is None) != (gallery_cams is None):
            raise ValueError("cameras are known for both queries and gallery, or for neither")
        self.cameras_used = query_cams is not None
        if self.cameras_used:
            self.query_cams = _labels(query_cams, len(self.query_ids))
            self.gallery_cams = _labels(gallery_cams, len(self.gallery_ids))
        known = np.flatnonzero(self.gallery_ids != DISTRACTOR)
        self._order = known[np.argsort(self.gallery_ids[known], kind="stable")]
        self._sorted = self.gallery_ids[self._order]

    def check(self, num_queries: int, num_gallery: int) -> None:
        """Raise ``ValueError`` unless the labels are as many as the features."""
        if (num_queries, num_gallery) != (len(self.query_ids), len(self.gallery_ids)):
            raise ValueError(
                f"{num_queries} query and {num_gallery} gallery features for "
                f"{len(self.query_ids)} and {len(self.gallery_ids)} identities"
            )

    def pairs(self, start: int, stop: int) -> Pairs:
        """The pairs of queries ``start`` to ``stop``; ``rows`` count from ``start``."""
        ids = self.query_ids[start:stop]
        first = np.searchsorted(self._sorted, ids, side="left")
        counts = np.searchsorted(self._sorted, ids, side="right") - first
        rows = np.repeat(np.arange(len(ids)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = self._order[np.repeat(first, counts) + within]
        junk = np.zeros(len(rows), bool)
        if self.cameras_used:
            junk = self.gallery_cams[columns] == self.query_cams[start:stop][rows]
        return Pairs(rows, columns, junk)


def _labels(values: Any, length: int | None = None) -> np.ndarray:
    labels = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(
            f"identities and cameras are integers (N,), not {labels.shape} {labels.dtype}"
        )
    if length is not None and len(labels) != length:
        raise ValueError(f"{len(labels)} cameras for {length} identities")
    return labels.astype(np.int64)
