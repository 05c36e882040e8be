"""Clusters of unlabelled images: Jaccard distances of k-reciprocal neighbours, then DBSCAN.

Or, instead of DBSCAN, the communities of the graph of neighbours.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.retrieval.approximate import Graph
from transreid_ssl.retrieval.reciprocal import encode, entries, parts, products

PAIRS_AT_ONCE = 1 << 15
BORDERS = ("first", "nearest")
METHODS = ("dbscan", "louvain")


def jaccard_graph(
    features: Tensor | np.ndarray,
    k1: int = 30,
    k2: int = 6,
    max_distance: float = 0.6,
    *,
    metric: str = "cosine",
    search: str | Graph = "exact",
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> sp.csr_matrix:
    """The Jaccard distances up to ``max_distance`` between all images, as a sparse matrix.

    The distance is 1 - s / (2 - s), s what the encodings of two images share (Zhong et al., CVPR
    2017, equation 10); as a distance for clusters as in Cluster Contrast (Dai et al., ACCV 2022):
    neighbourhoods of ``k1`` with the image itself, weights from squared distances.

    Args:
        features: (N, D).
        k1: size of the neighbourhoods, the image itself being one.
        k2: nearest images that an encoding is averaged over.
        max_distance: within (0, 1]. Images that share nothing are at distance one and are not
            listed even then.
        metric: "cosine" scales features to unit length first; "euclidean" takes them as they are.
        search: for neighbours: "exact", or "approximate" for hundreds of thousands of images, with
            faiss (see :func:`~transreid_ssl.retrieval.nearest_neighbours`).
        chunk: rows in a block of an exact search.
        device: where to search; the rest is done on the CPU.

    Returns:
        CSR (N, N) float32, symmetric, with sorted indices. Zeros are stored, on the diagonal and
        between equal images: an entry that is not there is a distance above ``max_distance``.

    Raises:
        UserError: k1 above N, k2 above k1, ``max_distance`` outside (0, 1], features not finite, or
            an approximate search without faiss.
    """
    if not 0 < max_distance <= 1:
        raise UserError(f"max_distance must lie within (0, 1], not {max_distance}")
    codes = encode(
        features, k1=k1, k2=k2, neighbourhood=k1, relative=False,
        metric=metric, chunk=chunk, device=device, search=search,
    ).codes  # fmt: skip
    least = 2 * (1 - max_distance) / (2 - max_distance)
    diagonal = np.arange(codes.shape[0], dtype=np.int32)
    found = [(diagonal, diagonal, np.zeros(len(diagonal), np.float32))]
    # What rounding may hide is looked at; the distance itself decides.
    for rows, columns, shared in _close_pairs(codes, least - 1e-6):
        distances = np.clip(1 - shared / (2 - shared), 0, None).astype(np.float32)
        kept = distances <= np.float32(max_distance)
        half = rows[kept], columns[kept], distances[kept]
        found += [half, (half[1], half[0], half[2])]
    rows, columns, distances = (np.concatenate(values) for values in zip(*found))
    return sp.csr_matrix(sp.coo_matrix((distances, (rows, columns)), shape=codes.shape))


def cluster(
    features: Tensor | np.ndarray,
    eps: float = 0.6,
    min_samples: int = 4,
    k1: int = 30,
    k2: int = 6,
    *,
    method: str = "dbscan",
    borders: str = "first",
    metric: str = "cosine",
    search: str | Graph = "exact",
    chunk: int | None = None,
    device: torch.device | str | None = None,
) -> np.ndarray:
    """Pseudo labels: DBSCAN on the Jaccard distance, int64 (N,), -1 for outliers.

    The labels are those of the dense distance matrix: DBSCAN never asks for a distance above
    ``eps``. In another order of the images clusters have other names, and nothing else is
    different but a border image within reach of two clusters, unless ``borders`` is "nearest".
    Arguments and errors are those of :func:`jaccard_graph`, and:

    Args:
        eps: images this close are neighbours.
        min_samples: neighbours, the image itself among them, that make an image a cluster's core.
        method: "dbscan", or "louvain": communities (Blondel et al., 2008) of the graph of images up
            to ``eps`` apart, one minus their distance being the weight of a link. One of fewer
            than ``min_samples`` images is none. Needs scikit-network.
        borders: of "dbscan", which cluster an image joins that is not a core but has cores of
            several as neighbours: "first", the one with the first image, as scikit-learn does; or
            "nearest", that of the nearest core, and of equally near ones that of more cores.
    """
    _check_clustering(eps, min_samples, method, borders)
    graph = jaccard_graph(
        features, k1, k2, max_distance=eps,
        metric=metric, search=search, chunk=chunk, device=device,
    )  # fmt: skip
    return cluster_graph(graph, eps, min_samples, method=method, borders=borders)


def cluster_graph(
    graph: sp.csr_matrix,
    eps: float = 0.6,
    min_samples: int = 4,
    *,
    method: str = "dbscan",
    borders: str = "first",
) -> np.ndarray:
    """The same for a ``graph`` of ``jaccard_graph`` that holds all distances up to ``eps``."""
    _check_clustering(eps, min_samples, method, borders)
    if method == "louvain":
        return _communities(graph, min_samples)
    # Here, since all recipes import this module and few cluster: scikit-learn takes a second.
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import sort_graph_by_row_values

    graph = sort_graph_by_row_values(graph, copy=False, warn_when_not_sorted=False)
    # The largest float32 below or at eps, which the graph was cut at, must not be lost again.
    model = DBSCAN(eps=float(np.float32(eps)), min_samples=min_samples, metric="precomputed")
    labels = model.fit(graph).labels_.astype(np.int64)
    if borders == "nearest":
        _join_nearest(labels, graph, model.core_sample_indices_)
    return labels


def choose_eps(graph: sp.csr_matrix, min_samples: int = 4) -> float:
    """The distance that makes the most clusters; below it people fall apart, above it they merge.

    An image is a core of DBSCAN from the distance to its ``min_samples``-th neighbour on, itself
    being one (Ester et al., KDD 1996, section 4.2). Tried are the distances at which 5 %, 10 % …
    95 % of the images are cores; of several the largest.

    Args:
        graph: of ``jaccard_graph`` with ``max_distance`` 1; its rows are sorted by distance.
    """
    from sklearn.neighbors import sort_graph_by_row_values

    graph = sort_graph_by_row_values(graph, copy=False, warn_when_not_sorted=False)
    own = np.ones(graph.shape[0], np.float32)
    enough = np.diff(graph.indptr) >= min_samples
    own[enough] = graph.data[graph.indptr[:-1][enough] + min_samples - 1]
    tried = np.unique(np.quantile(own, np.linspace(0.05, 0.95, 19)).clip(1e-3, 1))
    counts = [cluster_graph(graph, float(eps), min_samples).max() + 1 for eps in tried]
    return float(tried[np.flatnonzero(counts == np.max(counts))[-1]])


def choose_reach(eps: float) -> float:
    """How far images of no cluster may be from one that they join: a third of the way on to 1.

    Chosen by what was measured on ten sets of features of real crops (README.md of this folder).
    """
    return eps + (1 - eps) / 3


def join_outliers(labels: np.ndarray, graph: sp.csr_matrix, reach: float) -> np.ndarray:
    """Labels int64 (N,) with images of no cluster in that of the nearest image that is in one.

    Unlike a larger ``eps`` this brings no clusters together: nobody joins those who have joined.

    Args:
        labels: of ``cluster_graph``.
        graph: of ``jaccard_graph``, with all distances up to ``reach``.
        reach: images that are farther away from all of them stay in none.
    """
    joined = labels.copy()
    _take_nearest(joined, graph, labels < 0, labels >= 0, reach)
    return joined


def _check_clustering(eps: float, min_samples: int, method: str, borders: str) -> None:
    if borders not in BORDERS:
        raise ValueError(f"borders must be one of {', '.join(BORDERS)}, not {borders!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if not 0 < eps <= 1:
        raise UserError(f"eps must lie within (0, 1], not {eps}")
    if min_samples < 1:
        raise UserError(f"min_samples must be at least 1, not {min_samples}")


def _communities(graph: sp.csr_matrix, least: int) -> np.ndarray:
    """Communities of ``least`` or more images, named in the order of their first images."""
    try:
        from sknetwork.clustering import Louvain
    except ImportError as error:
        raise UserError(
            'method="louvain": needs scikit-network; install it with '
            "`pip install '.[communities]'`, or choose dbscan"
        ) from error
    links = graph.copy()
    links.data = 1 - links.data
    links.setdiag(0)
    links.eliminate_zeros()
    if not links.nnz:
        return np.full(graph.shape[0], -1)
    found = Louvain(random_state=0).fit_predict(links)
    _, first, found, sizes = np.unique(
        found, return_index=True, return_inverse=True, return_counts=True
    )
    kept = np.flatnonzero(sizes >= least)
    names = np.full(len(sizes), -1)
    names[kept[np.argsort(first[kept])]] = np.arange(len(kept))
    return names[found]


def _join_nearest(labels: np.ndarray, graph: sp.csr_matrix, cores: np.ndarray) -> None:
    """Give each image of a cluster that is not a core the label of its nearest core."""
    is_core = np.zeros(len(labels), bool)
    is_core[cores] = True
    _take_nearest(labels, graph, (labels >= 0) & ~is_core, is_core)


def _take_nearest(
    labels: np.ndarray, graph: sp.csr_matrix, takers: np.ndarray, givers: np.ndarray,
    reach: float = np.inf,
) -> None:  # fmt: skip
    """Give each of ``takers`` the label of its nearest of ``givers``, both bool (N,).

    Of equally near ones, that of the cluster with more givers decides, then the lowest label.
    """
    sizes = np.bincount(labels[givers], minlength=labels.max(initial=-1) + 1)
    rows, columns = entries(graph)
    near = graph.data <= np.float32(reach)
    links = np.flatnonzero(takers[rows] & givers[columns] & near)
    rows, joined = rows[links], labels[columns[links]]
    # A distance is a sum whose order, and so whose last digits, follow the images' order.
    distances = graph.data[links].round(5)
    order = np.lexsort((joined, -sizes[joined], distances, rows))
    images, first = np.unique(rows[order], return_index=True)
    labels[images] = joined[order][first]


def _close_pairs(
    codes: sp.csr_matrix, least: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows i, rows j > i and the sum of the minima of their codes, float64, all (P,).

    Every pair that shares ``least`` or more, and anything at all, is there once. The coefficient
    of Bhattacharyya, the sum of the roots of the products, is never below the sum of the minima,
    and is one product of sparse matrices; minima are then taken of the pairs that may be enough.
    """
    roots = codes.sqrt()
    columns = roots.T.tocsr()
    for part in parts(products(roots, columns)):
        bounds = roots[part] @ columns
        rows, others = entries(bounds, bounds.data >= least - 1e-4)  # it is rounded to float32
        rows += part.start
        upper = rows < others
        rows, others = rows[upper], others[upper]
        for start in range(0, len(rows), PAIRS_AT_ONCE):
            i, j = rows[start : start + PAIRS_AT_ONCE], others[start : start + PAIRS_AT_ONCE]
            minima = codes[i].minimum(codes[j])
            sums = np.bincount(entries(minima)[0], minima.data, len(i))  # .sum(1) is float32
            enough = (sums >= least) & (sums > 0)
            yield i[enough], j[enough], sums[enough]
