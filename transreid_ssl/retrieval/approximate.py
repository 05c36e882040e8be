"""Approximate search for neighbours: a graph over the gallery is walked, not all of it compared."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.blocks import BLOCK_BYTES, DistanceBlocks

# Malkov and Yashunin, TPAMI 2020: links of a row, and the rows kept in sight while the graph is
# built and walked. On random clustered features, the worst case, nine tenths and more are found.
LINKS = 32
BREADTH_BUILDING = 80
BREADTH = 128
SPARE = 8  # candidates beyond those wanted, so that equal distances can be put in order


def approximate_rows(
    blocks: DistanceBlocks, k: int, own: float | None = None, graph: "Graph | None" = None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield ``(start, values, rows)`` as ``search_rows`` does, of the rows that the graph leads to.

    faiss only proposes rows. Their distances are computed here, from float32 features, and order
    them, equal ones by row; a row is in its own list whether it was proposed or not. The graph is
    built by one thread, one row after the other: the outcome is the same each time.

    Args:
        graph: of the gallery's rows, where there is one.

    Raises:
        UserError: faiss is not installed.
        ValueError: the graph is of another number of rows, or of values in one.
    """
    if graph is None:
        graph = Graph(blocks.gallery.shape[1])
        graph.add(blocks.gallery.cpu().numpy())
    if (len(graph), graph.dim) != tuple(blocks.gallery.shape):
        raise ValueError(f"a graph of ({len(graph)}, {graph.dim}), not {blocks.gallery.shape}")
    wanted = min(k + SPARE, len(blocks.gallery))
    size = max(1, BLOCK_BYTES["cpu"] // (4 * wanted * max(1, blocks.gallery.shape[1])))
    for start in range(0, len(blocks.queries), size):
        queries = blocks.queries[start : start + size]
        rows = torch.from_numpy(graph.propose(queries.cpu().numpy(), wanted)).to(blocks.device)
        values = blocks.at(start, rows)
        if own is not None:
            itself = torch.arange(start, start + len(queries), device=blocks.device)[:, None]
            values[rows == itself] = torch.inf
            rows = torch.cat([itself, rows], dim=1)
            values = torch.cat([torch.full_like(values[:, :1], own), values], dim=1)
        rows, order = rows.sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, stable=True)
        yield start, values[:, :k], rows.gather(1, order)[:, :k]


class Graph:
    """The hierarchical navigable small-world graph of rows (G, D), for squared distances.

    Raises:
        UserError: faiss is not installed.
    """

    def __init__(self, dim: int, index: Any = None) -> None:
        if index is None:
            index = _faiss().IndexHNSWFlat(dim, LINKS)
            index.hnsw.efConstruction = BREADTH_BUILDING
        self._index = index

    @staticmethod
    def require() -> None:
        """Raise ``UserError`` where faiss is not installed."""
        _faiss()

    @property
    def dim(self) -> int:
        """D, values in a row."""
        return self._index.d

    def __len__(self) -> int:
        return self._index.ntotal

    def add(self, rows: np.ndarray) -> None:
        """Link further rows, float32 (B, D), one after the other."""
        faiss = _faiss()
        faiss.omp_set_num_threads(1)  # several would link rows in the order in which they get there
        self._index.add(np.ascontiguousarray(rows))
        faiss.omp_set_num_threads(torch.get_num_threads())

    def propose(self, queries: np.ndarray, count: int) -> np.ndarray:
        """int64 (Q, count), rows near each query (Q, D), each once."""
        self._index.hnsw.efSearch = max(BREADTH, 2 * count)
        rows = self._index.search(queries, count)[1]
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):  # a part of the graph that is too small: compare with all that is stored
            stored = _faiss().downcast_index(self._index.storage)
            rows[short] = stored.search(queries[short], count)[1]
        return rows

    def to_bytes(self) -> bytes:
        """What faiss writes into a file of this index."""
        return _faiss().serialize_index(self._index).tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Graph":
        """The inverse, for bytes that are known to be whole: faiss checks little of them.

        Raises:
            UserError: an index of another kind.
        """
        faiss = _faiss()
        index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
        if not isinstance(index, faiss.IndexHNSWFlat):
            raise UserError(
                f"a faiss index of another kind ({type(index).__name__}); give one that embed wrote"
            )
        return cls(index.d, index)


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the wrapper's generator
            import faiss
    except ImportError as error:
        raise UserError(
            "approximate search needs faiss: pip install 'transreid_ssl[faiss]', or search exactly"
        ) from error
    return faiss
