"""Evaluation after re-ranking: sparse codes beside the dense routine, on random clustered features.

    python -m benchmarks.reranking                                     # up to 8,000 images
    python -m benchmarks.reranking --sizes 19281 --plain-limit 0       # Market-1501's size
    python -m benchmarks.reranking --sizes 2000 93820 --threads 2      # MSMT17's

Sizes count queries and gallery together, one image in eight being a query. The plain routine holds
N x N distances and encodings (at MSMT17's size 33 GiB each), loops over the images and sorts the
distances that come of it. mAP and CMC of both must agree. ``ratio`` is plain time over ours.
"""

import numpy as np

from benchmarks import evaluation
from benchmarks.dense_reciprocal import dense_codes, dense_jaccard, random_people, squared_distances
from benchmarks.scaling import Comparison, run
from transreid_ssl.retrieval import Reranking, evaluate

SIZES = ("1000", "2000", "4000", "8000")
SETTINGS = Reranking(k1=20, k2=6, lambda_value=0.3)


def inputs(size, dim):
    """Queries and their identities, then the gallery's."""
    features, ids = random_people(size, dim, seed=1)
    cut = max(1, size // 8)
    return features[:cut], ids[:cut], features[cut:], ids[cut:]


def ours(query, query_ids, gallery, gallery_ids):
    """(mAP, CMC), never Q x G: search, encoding, blocks of distances, ranks of the matches."""
    metrics = evaluate(query, query_ids, None, gallery, gallery_ids, None, rerank=SETTINGS)
    return metrics.mAP, metrics.cmc


def plain(query, query_ids, gallery, gallery_ids):
    """(mAP, CMC) with every matrix held whole."""
    distances = plain_distances(query, gallery)
    cameras = np.zeros(len(query), int), np.ones(len(gallery), int)  # nothing is removed
    return evaluation.plain_metrics(distances, query_ids, cameras[0], gallery_ids, cameras[1])


def plain_distances(query, gallery):
    """Re-ranked distances float32 (Q, G)."""
    distances = squared_distances(np.concatenate([query, gallery]))
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1)
    k1, k2, kept = SETTINGS.k1, SETTINGS.k2, SETTINGS.lambda_value
    codes = dense_codes(distances, order, k1 + 1, k1 // 2 + 1, k2)
    jaccard = dense_jaccard(codes, len(query))
    return ((1 - kept) * jaccard + kept * distances[: len(query)])[:, len(query) :]


if __name__ == "__main__":
    comparison = Comparison("reranking", inputs, ours, plain, evaluation.check, "images")
    run(comparison, __doc__, SIZES, plain_limit=8000, dim=64)
