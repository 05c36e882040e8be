"""k-reciprocal encoding and Jaccard distance said plainly: sets, loops and N x N matrices."""

import numpy as np


def squared_distances(features, dtype=np.float64):
    """Squared Euclidean distances (N, N)."""
    features = np.asarray(features, dtype)
    return np.square(features[:, None] - features[None]).sum(2)


def relative(distances):
    """Distances over the farthest one of their row."""
    return distances / distances.max(1, keepdims=True)


def nearest(distances):
    """All rows by distance: itself first, then equal distances by row."""
    distances = distances.copy()
    np.fill_diagonal(distances, -np.inf)
    return np.argsort(distances, axis=1, kind="stable")


def reciprocal_sets(order, count):
    """For each row, those of its first ``count`` that have it among theirs."""
    lists = order[:, :count].tolist()
    return [{j for j in members if i in lists[j]} for i, members in enumerate(lists)]


def slow_codes(distances, neighbourhood, narrow, k2, dtype=np.float64):
    """The encodings (N, N). The published re-ranking keeps them in half precision."""
    order = nearest(distances)
    wide_sets, narrow_sets = (reciprocal_sets(order, count) for count in (neighbourhood, narrow))
    codes = np.zeros(distances.shape, dtype)
    for i, members in enumerate(wide_sets):
        grown = set(members)
        for j in members:
            others = narrow_sets[j]
            if 3 * len(others & members) > 2 * len(others):
                grown |= others
        grown = sorted(grown)
        weights = np.exp(-distances[i, grown])
        codes[i, grown] = weights / weights.sum()
    return np.stack([codes[order[i, :k2]].mean(0) for i in range(len(codes))])


def slow_jaccard(codes, rows=None):
    """1 - min / max of the first ``rows`` to all, by columns, in the precision of the codes."""
    minima = np.zeros_like(codes[:rows])
    for column in codes.T:
        minima += np.minimum(column[:rows, None], column[None])
    return 1 - minima / (2 - minima)


def slow_graph(features, k1, k2):
    """The distances that clusters are made from, (N, N)."""
    return slow_jaccard(slow_codes(squared_distances(features), k1, round(k1 / 2) + 1, k2))


def slow_rerank(features, num_queries, k1, k2, lambda_value):
    """Re-ranked distances (Q, G) of ``features``, queries before gallery."""
    distances = relative(squared_distances(features))
    codes = slow_codes(distances, k1 + 1, round(k1 / 2) + 1, k2)
    jaccard = slow_jaccard(codes, num_queries)
    return (jaccard * (1 - lambda_value) + distances[:num_queries] * lambda_value)[:, num_queries:]
