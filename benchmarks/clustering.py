"""Pseudo labels: sparse Jaccard and DBSCAN beside the dense routine, on the same random features.

    python -m benchmarks.clustering                      # 8,000 images
    python -m benchmarks.clustering --size 32621         # MSMT17's training images
    python -m benchmarks.clustering --size 200000 --plain-size 2000

The plain routine is what most ReID code does: N x N matrices of distances, encodings and Jaccard
distances, a loop over the images for each, and DBSCAN on the last one. Both are compared on the
first ``--plain-size`` images, where their labels must be equal; the whole is run by ours alone.
``ratio`` is plain time over ours. With one thread, times are processor time.
"""

import argparse
import os

import numpy as np
import torch
from sklearn.cluster import DBSCAN

from benchmarks.dense_reciprocal import (
    dense_codes,
    dense_jaccard,
    random_people,
    squared_distances,
)
from benchmarks.evaluation import timed
from benchmarks.reporting import finish, peak_memory_mb
from transreid_ssl.retrieval import cluster

K1, K2, EPS, MIN_SAMPLES = 30, 6, 0.6, 4


def plain_clusters(features):
    """Labels int64 (N,) with every matrix held whole."""
    distances = squared_distances(features)
    order = torch.from_numpy(distances).topk(K1, largest=False).indices.numpy()
    codes = dense_codes(distances, order, K1, K1 // 2 + 1, K2)
    jaccard = dense_jaccard(codes, len(codes))
    return DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed").fit(jaccard).labels_


def main():
    """Time both, check that they agree, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=8000, help="images (default 8000)")
    parser.add_argument("--plain-size", type=int, default=8000, help="images of the comparison")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    features, _ = random_people(options.size, options.dim)
    whole, labels = timed(cluster, (features, EPS, MIN_SAMPLES, K1, K2))
    peak = peak_memory_mb()
    outliers = int((labels == -1).sum())
    print(f"{len(features):,} images: {labels.max() + 1:,} clusters, {outliers:,} outliers")
    print(f"{whole:.2f} s, peak memory of the process {peak:,.0f} MB")
    part = features[: options.plain_size]
    ours, found = timed(cluster, (part, EPS, MIN_SAMPLES, K1, K2))
    plain, expected = timed(plain_clusters, (part,))
    np.testing.assert_array_equal(found, expected)
    print(f"{len(part):,} images: ours {ours:.2f} s, plain {plain:.2f} s, labels are equal")
    finish(
        plain / ours,
        **{"size": len(features), "dim": options.dim, "threads": options.threads},
        **{"seconds": round(whole, 2), "peak_mb": round(peak), "clusters": int(labels.max() + 1)},
        **{"compared": len(part), "compared_seconds": round(ours, 2)},
        **{"plain_seconds": round(plain, 2), "load": round(load, 2)},
    )


if __name__ == "__main__":
    main()
