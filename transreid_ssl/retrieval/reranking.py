"""Re-ranking of a gallery after the search: k-reciprocal neighbours, and query expansion."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.blocks import DistanceBlocks, as_features, common_device
from transreid_ssl.retrieval.neighbours import nearest_neighbours
from transreid_ssl.retrieval.reciprocal import PRECISIONS, encode, entries, parts, products, squared


@dataclass(frozen=True)
class Reranking:
    """How to re-rank; the published values are those of Market-1501.

    Attributes:
        k1: nearest images in the neighbourhoods.
        k2: nearest images that an encoding is averaged over.
        lambda_value: weight of the distance as it was; the rest is the Jaccard distance's.
        precision: "no" (float32), or "fp16" to repeat the published program's numbers. It stores
            the weights and adds them up in half precision, which moves distances by up to 0.002
            and saves nothing where only the weights that are not zero are kept.
    """

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3
    precision: str = "no"


class RerankedBlocks:
    """Distances of all queries to all of the gallery after re-ranking, never held at once.

    Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017,
    equation 12: (1 - lambda) Jaccard + lambda d, where d is the squared Euclidean distance over
    the farthest one of the query, among queries and gallery. All images are encoded when this is
    made; iterating yields ``(start, block)``, ``block`` (B, G) float32, as ``DistanceBlocks`` does.

    Args:
        queries, gallery: (Q, D), (G, D). Queries are neighbours of each other too, as published:
            the distances of a query depend on which others are there.
        metric: "cosine" scales features to unit length first; "euclidean" takes them as they are.
        chunk: queries in a block.

    Raises:
        ValueError: shapes that disagree, or an unknown ``precision``.
        UserError: features that are not finite, no more of them than k1, k2 above k1 + 1, or
            ``lambda_value`` outside 0..1.
    """

    def __init__(
        self,
        queries: Tensor | np.ndarray,
        gallery: Tensor | np.ndarray,
        settings: Reranking = Reranking(),
        *,
        metric: str = "cosine",
        chunk: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= settings.lambda_value <= 1:
            raise UserError(f"lambda_value must lie in 0..1, not {settings.lambda_value}")
        if settings.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, not {settings.precision!r}"
            )
        self._blocks = DistanceBlocks(queries, gallery, metric=metric, chunk=chunk, device=device)
        self._settings = settings
        self.device: torch.device = self._blocks.device
        everything = torch.cat([self._blocks.queries, self._blocks.gallery])
        encoding = encode(
            everything, k1=settings.k1, k2=settings.k2, neighbourhood=settings.k1 + 1,
            relative=True, metric=metric, chunk=chunk, device=self.device,
            precision=settings.precision,
        )  # fmt: skip
        count = len(self._blocks.queries)
        self._codes, self._columns = encoding.codes[:count], encoding.codes[count:].T.tocsr()
        tiny = torch.finfo(torch.float32).tiny  # all images may be the same one
        self._farthest = encoding.farthest[:count, None].clamp(min=tiny).to(self.device)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        kept, precision = self._settings.lambda_value, self._settings.precision
        for start, block in self._blocks:
            stop = start + len(block)
            original = squared(self._blocks, self._blocks.distances(start, block))
            block = original.mul_(kept / self._farthest[start:stop])
            for part, shared in _shared(self._codes[start:stop], self._columns, precision):
                jaccard = 1 - shared / (2 - shared)
                block[part] += torch.from_numpy(jaccard * (1 - kept)).to(self.device)
            yield start, block


def _shared(
    codes: sp.csr_matrix, columns: sp.csr_matrix, precision: str
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield parts of the queries, and what each shares with every gallery row: (P, G).

    The sums of the minima. Most pairs share little, which makes it cheaper to go from every entry
    of a query through the gallery rows that have it too, than to compare pairs of rows.

    Args:
        codes: of the queries (B, N).
        columns: codes of the gallery, transposed: (N, G).
        precision: "fp16" rounds each sum, in the order of the columns of ``codes``; otherwise
            sums are float64.
    """
    lengths, width = np.diff(columns.indptr), columns.shape[1]
    for part in parts(products(codes, columns)):
        own = codes[part]
        counts = lengths[own.indices]
        skipped = columns.indptr[own.indices] - (np.cumsum(counts, dtype=np.int64) - counts)
        places = np.arange(counts.sum()) + np.repeat(skipped, counts)
        minima = np.minimum(np.repeat(own.data, counts), columns.data[places])
        cells = np.repeat(entries(own)[0].astype(np.int64) * width, counts)
        cells += columns.indices[places]
        if precision == "fp16":
            sums = np.zeros(own.shape[0] * width, np.float16)
            np.add.at(sums, cells, minima.astype(np.float16))
        else:
            sums = np.bincount(cells, minima, own.shape[0] * width)
        yield part, sums.reshape(own.shape[0], width)


def rerank(
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    precision: str = "no",
    metric: str = "cosine",
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The re-ranked distances of each query to each gallery row: float32 (Q, G) on the CPU.

    The whole matrix is for small galleries; ``evaluate(..., rerank=Reranking(...))`` needs none.
    Arguments and errors are those of :class:`Reranking` and :class:`RerankedBlocks`.
    """
    blocks = RerankedBlocks(
        query_features, gallery_features, Reranking(k1, k2, lambda_value, precision),
        metric=metric, chunk=chunk, device=device,
    )  # fmt: skip
    result = torch.empty(len(query_features), len(gallery_features))
    for start, block in blocks:
        result[start : start + len(block)] = block
    return result


def expand_queries(
    query_features: Tensor | np.ndarray,
    gallery_features: Tensor | np.ndarray,
    k: int = 5,
    *,
    alpha: float = 0.0,
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Average query expansion: each query and its nearest gallery rows, averaged; unit (Q, D).

    Chum et al., "Total Recall", ICCV 2007, with k verified by nothing but their place. The weights
    similarity^alpha are those of Radenovic et al., TPAMI 2019: 0 is the plain mean, 3 is common.

    Args:
        query_features, gallery_features: (Q, D), (G, D); scaled to unit length first.
        k: gallery rows, capped at those there are.

    Raises:
        ValueError: k below 1, negative ``alpha``, shapes that disagree.
        UserError: features that are not finite.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be at least 0, not {alpha}")
    device = common_device(device, query_features, gallery_features)
    queries = F.normalize(as_features(query_features, "query", device), dim=1)
    gallery = F.normalize(as_features(gallery_features, "gallery", device), dim=1)
    distances, rows = nearest_neighbours(queries, gallery, k=k, chunk=chunk)
    weights = (1 - distances).clamp_(min=0).pow_(alpha).to(device)
    expanded = queries.clone()
    for place in range(rows.shape[1]):  # not (Q, k, D) at once
        expanded += weights[:, place, None] * gallery[rows[:, place].to(device)]
    return F.normalize(expanded, dim=1)
