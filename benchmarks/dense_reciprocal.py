"""k-reciprocal encoding as it is usually written: N x N matrices and a loop over the images."""

import numpy as np
import torch


def random_people(size, dim, per_identity=20, spread=1.0, seed=0):
    """Unit features float32 (size, dim) around one centre an identity, and identities (size,)."""
    rng = np.random.default_rng(seed)
    identities = max(1, size // per_identity)
    centres = rng.standard_normal((identities, dim), dtype=np.float32)
    ids = rng.integers(0, identities, size)
    # Some images are harder than others; more dimensions tell people apart better.
    hardness = rng.gamma(8.0, spread * (dim / 64) ** 0.25 / 8, (size, 1)).astype(np.float32)
    features = rng.standard_normal((size, dim), dtype=np.float32)
    for part in np.array_split(np.arange(size), 1 + size // 4096):  # no second copy
        features[part] = features[part] * hardness[part] + centres[ids[part]]
        features[part] /= np.linalg.norm(features[part], axis=1, keepdims=True)
    return features, ids


def squared_distances(features):
    """All squared distances between unit features, float32 (N, N)."""
    features = torch.from_numpy(features)
    return (2 - 2 * features @ features.T).clamp_(min=0).numpy()


def dense_codes(distances, order, wide, narrow, k2):
    """The encodings, float32 (N, N); ``order`` (N, K) are the nearest of each, itself first."""
    reciprocal = [_reciprocal(order, i, wide) for i in range(len(order))]
    small = [_reciprocal(order, i, narrow) for i in range(len(order))]
    codes = np.zeros(distances.shape, np.float32)
    for i, members in enumerate(reciprocal):
        grown = members
        for j in members:
            if len(np.intersect1d(small[j], members)) > 2 / 3 * len(small[j]):
                grown = np.append(grown, small[j])
        grown = np.unique(grown)
        weights = np.exp(-distances[i, grown])
        codes[i, grown] = weights / weights.sum()
    expanded = np.empty_like(codes)
    for i in range(len(codes)):
        expanded[i] = codes[order[i, :k2]].mean(axis=0)
    return expanded


def dense_jaccard(codes, rows):
    """Jaccard distances of the first ``rows`` to all, float32 (rows, N), by an inverted index."""
    holders = [np.flatnonzero(column) for column in codes.T]
    distances = np.empty((rows, len(codes)), np.float32)
    for i in range(rows):
        minima = np.zeros(len(codes), np.float32)
        for j in np.flatnonzero(codes[i]):
            minima[holders[j]] += np.minimum(codes[i, j], codes[holders[j], j])
        distances[i] = 1 - minima / (2 - minima)
    return distances.clip(0)


def _reciprocal(order, i, count):
    forward = order[i, :count]
    return forward[(order[forward, :count] == i).any(axis=1)]
