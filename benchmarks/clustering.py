"""Pseudo labels: sparse Jaccard and DBSCAN beside the dense routine, on random clustered features.

    python -m benchmarks.clustering                                       # up to 8,000 images
    python -m benchmarks.clustering --sizes 32621 --plain-limit 0         # MSMT17's training images
    python -m benchmarks.clustering --sizes 2000 200000 --threads 2

The plain routine is what most ReID code does: N x N matrices of distances, encodings and Jaccard
distances, a loop over the images for each, and DBSCAN on the last one. The labels of both must be
equal. ``ratio`` is plain time over ours.
"""

import numpy as np
import torch
from sklearn.cluster import DBSCAN

from benchmarks.dense_reciprocal import dense_codes, dense_jaccard, random_people, squared_distances
from benchmarks.scaling import Comparison, run
from transreid_ssl.retrieval import cluster

SIZES = ("1000", "2000", "4000", "8000")
K1, K2, EPS, MIN_SAMPLES = 30, 6, 0.6, 4


def inputs(size, dim):
    """The features alone."""
    return random_people(size, dim)[:1]


def ours(features):
    """Labels int64 (N,), with no N x N matrix."""
    return cluster(features, EPS, MIN_SAMPLES, K1, K2)


def plain(features):
    """Labels int64 (N,) with every matrix held whole."""
    distances = squared_distances(features)
    order = torch.from_numpy(distances).topk(K1, largest=False).indices.numpy()
    codes = dense_codes(distances, order, K1, K1 // 2 + 1, K2)
    jaccard = dense_jaccard(codes, len(codes))
    return DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit(jaccard).labels_


if __name__ == "__main__":
    comparison = Comparison(
        "clustering", inputs, ours, plain, np.testing.assert_array_equal, "images"
    )
    run(comparison, __doc__, SIZES, plain_limit=8000, dim=64)
