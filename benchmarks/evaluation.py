"""Retrieval metrics: ours beside a plain dense routine, on the same random clustered features.

    python -m benchmarks.evaluation                                         # up to Market-1501's
    python -m benchmarks.evaluation --sizes 11659x82161 --plain-limit 0     # MSMT17's size
    python -m benchmarks.evaluation --dim 64 --threads 2

Sizes are queries x gallery rows, 3368x15913 the largest by default. The plain routine is what most
ReID code does: the whole matrix of distances, an argsort of every row, matches as a matrix in that
order, and a loop over the queries with a precision at every rank. mAP and CMC of both must agree.
``ratio`` is plain time over ours.
"""

import numpy as np
import torch

from benchmarks.scaling import Comparison, run
from transreid_ssl.retrieval import evaluate

SIZES = ("421x1989", "842x3978", "1684x7956", "3368x15913")
CAMERAS = 6


def random_people(num_queries, num_gallery, dim):
    """(features, identities, cameras) of queries, then of gallery, in Market-1501's proportions."""
    rng = np.random.default_rng(0)
    identities = max(1, round(num_queries * 750 / 3368))
    distractors = round(num_gallery * 2798 / 15913)
    ids = rng.integers(0, identities, num_queries + num_gallery)
    ids[num_queries : num_queries + distractors] = -1
    centres = rng.standard_normal((identities + 1, dim), dtype=np.float32)
    # Some images are harder than others; more dimensions tell people apart better.
    spread = rng.gamma(8.0, (dim / 64) ** 0.25 / 6, (len(ids), 1)).astype(np.float32)
    spread[ids == -1], centres[-1] = 1.5, 0  # a distractor is nobody's image
    features = rng.standard_normal((len(ids), dim), dtype=np.float32)
    for part in np.array_split(np.arange(len(ids)), 1 + len(ids) // 4096):  # no second copy
        features[part] = features[part] * spread[part] + centres[ids[part]]
    cams = rng.integers(0, CAMERAS, len(ids))
    cut = num_queries
    return features[:cut], ids[:cut], cams[:cut], features[cut:], ids[cut:], cams[cut:]


def ours(*people):
    """(mAP, CMC) without a Q x G matrix."""
    metrics = evaluate(*people)
    return metrics.mAP, metrics.cmc


def plain(query, query_ids, query_cams, gallery, gallery_ids, gallery_cams):
    """(mAP, CMC) with all Q x G distances."""
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    distances = 1 - (torch.from_numpy(query) @ torch.from_numpy(gallery).T).numpy()
    return plain_metrics(distances, query_ids, query_cams, gallery_ids, gallery_cams)


def plain_metrics(distances, query_ids, query_cams, gallery_ids, gallery_cams):
    """(mAP, CMC) by sorting everything, and the list of every query walked from end to end."""
    order = np.argsort(distances, axis=1)
    matches = (gallery_ids[order] == query_ids[:, None]).astype(np.int32)
    precisions, curves = [], []
    for query in range(len(order)):
        ranked = order[query]
        same = gallery_ids[ranked] == query_ids[query]
        kept = ~(same & (gallery_cams[ranked] == query_cams[query]))
        hits = matches[query][kept]
        if hits.any():
            found = hits.cumsum()
            precision = found / np.arange(1, len(hits) + 1)
            precisions.append((precision * hits).sum() / hits.sum())
            curves.append(found[:50] > 0)
    return np.mean(precisions), np.mean(curves, axis=0)


def check(one, other):
    """Distances that differ in the last bit may change places, and a query its first match."""
    assert np.isclose(one[0], other[0], atol=1e-5), (one[0], other[0])
    assert np.allclose(one[1], other[1], atol=2e-3)


if __name__ == "__main__":
    comparison = Comparison(
        "evaluation", random_people, ours, plain, check, "queries x gallery images"
    )
    run(comparison, __doc__, SIZES, plain_limit=16000, dim=384)
