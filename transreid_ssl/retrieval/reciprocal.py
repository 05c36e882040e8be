"""k-reciprocal encoding: each image as a sparse vector over the images that it is close to.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. The
vectors of two images of one person overlap, and the Jaccard distance says how much. Re-ranking
and clustering both rest on it; in nothing here does memory grow with the square of the images.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.approximate import Graph
from transreid_ssl.retrieval.blocks import BLOCK_BYTES, DistanceBlocks
from transreid_ssl.retrieval.neighbours import exact_rows, search_rows

# Of one sparse product, in multiplications: a bound on the entries that it makes.
PRODUCTS_AT_ONCE = 1 << 22
PRECISIONS: dict[str, type[np.floating]] = {"no": np.float32, "fp16": np.float16}


@dataclass(frozen=True, eq=False)
class Encoding:
    """The encoded images, and what they were encoded from.

    Attributes:
        codes: CSR (N, N) float32; rows are not negative and sum to one; indices ascend.
        farthest: float32 (N,), the squared distance of the farthest image, or None.
    """

    codes: sp.csr_matrix
    farthest: Tensor | None


def encode(
    features: Tensor | np.ndarray,
    *,
    k1: int,
    k2: int,
    neighbourhood: int,
    relative: bool,
    metric: str = "cosine",
    chunk: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "no",
    search: str | Graph = "exact",
) -> Encoding:
    """The k-reciprocal encoding of each image, expanded over its nearest ones.

    1. The reciprocal set R(i): those of the ``neighbourhood`` nearest images of i, i the first of
       them, that have i among theirs (paper, equation 2).
    2. R(i) grows by the reciprocal set of each member c within the nearest 1 + k1/2, where more
       than two thirds of it lie in R(i) already (equation 3).
    3. A member weighs exp(-d), d its squared distance from i, and a row sums to one (equation 7).
    4. A row becomes the mean of the rows of its ``k2`` nearest images (equation 11).

    An image stands first in its own list whatever else is equal to it, and other equal distances
    go by row: every set holds its own image, and the outcome is determined.

    Args:
        features: (N, D).
        k1: half of it, rounded to even, and the image itself make the narrow lists.
        k2: rows that are averaged; 1 leaves them as they are.
        neighbourhood: nearest images in the wide lists, the image itself being one.
        relative: divide squared distances by the farthest one of the row before weighing.
        metric: "cosine" scales features to unit length first; "euclidean" takes them as they are.
        chunk: rows in a block of the search.
        precision: "fp16" rounds the weights to half precision, before and after they are
            averaged; they are float32 as numbers even then.
        search: "exact", or "approximate" unless distances are ``relative``: finding the farthest
            image takes all distances anyway.

    Raises:
        UserError: features that are not finite, or fewer of them than neighbours; k1, k2 below 1,
            or k2 above the neighbourhood.
    """
    _check(len(features), k1, k2, neighbourhood)
    blocks = DistanceBlocks(features, features, metric=metric, chunk=chunk, device=device)
    if relative:
        nearest, farthest = _nearest_and_farthest(blocks, neighbourhood)
    else:
        found = search_rows(blocks, neighbourhood, own=-torch.inf, search=search)
        nearest, farthest = _rows(found, blocks, neighbourhood), None
    members = _expanded(_reciprocal(nearest), _reciprocal(nearest[:, : round(k1 / 2) + 1]))
    codes = _rounded(_weighted(members, blocks, farthest), precision)
    if k2 > 1:
        codes = sp.csr_matrix(_rows_of(nearest[:, :k2]) @ codes)
        codes.sort_indices()
        codes.data /= k2
        codes = _rounded(codes, precision)
    return Encoding(codes, farthest)


def _check(num_images: int, k1: int, k2: int, neighbourhood: int) -> None:
    if k1 < 1 or not 1 <= k2 <= neighbourhood:
        raise UserError(f"k1 and k2 must be at least 1 and k2 at most k1, not k1={k1}, k2={k2}")
    if neighbourhood > num_images:
        raise UserError(
            f"k1={k1} needs {neighbourhood:,} images, not {num_images:,}: take a smaller k1"
        )


def _rounded(codes: sp.csr_matrix, precision: str) -> sp.csr_matrix:
    """``codes`` with weights as ``precision`` holds them; sparse products need float32."""
    codes.data = codes.data.astype(PRECISIONS[precision]).astype(np.float32, copy=False)
    return codes


def _rows(
    found: Iterable[tuple[int, Tensor, Tensor]], blocks: DistanceBlocks, count: int
) -> np.ndarray:
    """The rows ``found`` for all queries, int32 (N, count)."""
    nearest = np.empty((len(blocks.queries), count), np.int32)
    for start, _, rows in found:
        nearest[start : start + len(rows)] = rows.cpu().numpy()
    return nearest


def _nearest_and_farthest(blocks: DistanceBlocks, count: int) -> tuple[np.ndarray, Tensor]:
    """The nearest ``count`` rows of each row, itself first, and the farthest squared distance."""
    farthest = torch.empty(len(blocks.queries))

    def noted() -> Iterator[tuple[int, Tensor]]:
        for start, block in blocks:
            largest = blocks.distances(start, block.max(1, keepdim=True).values)
            farthest[start : start + len(block)] = squared(blocks, largest).ravel()
            yield start, block

    return _rows(exact_rows(noted(), count, -torch.inf), blocks, count), farthest


def squared(blocks: DistanceBlocks, distances: Tensor) -> Tensor:
    """Squared Euclidean distances: between unit vectors, twice the cosine distance."""
    return distances.mul_(2) if blocks.metric == "cosine" else distances.square_()


def _rows_of(columns: np.ndarray) -> sp.csr_matrix:
    """CSR (N, N) with ones at the ``columns`` (N, K) of each row."""
    size, count = columns.shape
    starts = np.arange(0, columns.size + 1, count)
    data = np.ones(columns.size, np.float32)
    matrix = sp.csr_matrix((data, columns.ravel().astype(np.int32), starts), shape=(size, size))
    matrix.sort_indices()
    return matrix


def _reciprocal(nearest: np.ndarray) -> sp.csr_matrix:
    """Ones where two rows have one another among their nearest."""
    forward = _rows_of(nearest)
    return sp.csr_matrix(forward.multiply(forward.T.tocsr()))


def _expanded(wide: sp.csr_matrix, narrow: sp.csr_matrix) -> sp.csr_matrix:
    """Positive where a row of ``wide``, grown by those of ``narrow`` that lie in it, has members.

    Both have ones on their diagonals, so that a member's narrow set always meets the row.
    """
    sizes, transposed = np.diff(narrow.indptr), narrow.T.tocsr()
    grown = []
    for part in parts(products(wide, transposed)):
        own = wide[part]
        inside = sp.csr_matrix(own.multiply(own @ transposed))
        inside.data = (3 * inside.data > 2 * sizes[inside.indices]).astype(np.float32)
        inside.eliminate_zeros()
        grown.append(own + inside @ narrow)
    members = sp.csr_matrix(sp.vstack(grown, format="csr"))
    members.sort_indices()
    return members


def _weighted(
    members: sp.csr_matrix, blocks: DistanceBlocks, farthest: Tensor | None
) -> sp.csr_matrix:
    """``members`` with weights exp(-squared distance) instead, rows summing to one."""
    rows, columns = entries(members)
    features = blocks.queries
    weights = np.empty(len(rows), np.float32)
    pairs = max(1, BLOCK_BYTES["cpu"] // (8 * features.shape[1]))
    for start in range(0, len(rows), pairs):
        part = slice(start, start + pairs)
        i, j = (torch.from_numpy(a[part]).to(features.device) for a in (rows, columns))
        distances = (features[i] - features[j]).square_().sum(1).cpu()
        if farthest is not None:  # all images may be the same one
            distances /= farthest[i.cpu()].clamp_(min=torch.finfo(torch.float32).tiny)
        weights[part] = distances.neg_().exp_().numpy()
    sums = np.add.reduceat(weights, members.indptr[:-1])
    weights /= np.repeat(sums, np.diff(members.indptr))
    return sp.csr_matrix((weights, members.indices, members.indptr), shape=members.shape)


def entries(
    matrix: sp.csr_matrix, chosen: np.ndarray | slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the stored entries, or of the ``chosen`` of them."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    return rows[chosen], matrix.indices[chosen]


def products(left: sp.csr_matrix, right: sp.csr_matrix) -> np.ndarray:
    """The multiplications of each row of ``left @ right``, int64 (rows,)."""
    sizes = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])
    return np.diff(sizes[left.indptr])


def parts(work: np.ndarray) -> Iterator[slice]:
    """Consecutive rows of at most ``PRODUCTS_AT_ONCE`` together, one at least."""
    total = np.cumsum(work)
    start = 0
    while start < len(work):
        before = total[start - 1] if start else 0
        stop = int(np.searchsorted(total, before + PRODUCTS_AT_ONCE, side="right"))
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop
