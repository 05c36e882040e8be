"""Evaluation after re-ranking: sparse codes beside the dense routine, on the same random features.

    python -m benchmarks.reranking                                       # 400 x 3,600
    python -m benchmarks.reranking --queries 3368 --size 19281           # Market-1501's size
    python -m benchmarks.reranking --queries 11659 --size 93820 --plain-size 4000    # MSMT17's

``--size`` counts queries and gallery together. The plain routine holds N x N distances and
encodings and loops over the images; the two are compared on the first ``--plain-size`` rows, with
as large a part of queries, where their distances must be equal. ``ratio`` is plain time over ours.
With one thread, times are processor time.
"""

import argparse
import os

import numpy as np
import torch

from benchmarks.dense_reciprocal import (
    dense_codes,
    dense_jaccard,
    random_people,
    squared_distances,
)
from benchmarks.evaluation import timed
from benchmarks.reporting import finish, peak_memory_mb
from transreid_ssl.retrieval import Reranking, evaluate, rerank

SETTINGS = Reranking(k1=20, k2=6, lambda_value=0.3)


def plain_rerank(query, gallery):
    """Distances float32 (Q, G) with every matrix held whole."""
    distances = squared_distances(np.concatenate([query, gallery]))
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1)
    k1, k2, kept = SETTINGS.k1, SETTINGS.k2, SETTINGS.lambda_value
    codes = dense_codes(distances, order, k1 + 1, k1 // 2 + 1, k2)
    jaccard = dense_jaccard(codes, len(query))
    return ((1 - kept) * jaccard + kept * distances[: len(query)])[:, len(query) :]


def evaluated(query, query_ids, gallery, gallery_ids):
    """The whole path, never Q x G: search, encoding, blocks of distances, ranks of the matches."""
    return evaluate(query, query_ids, None, gallery, gallery_ids, None, rerank=SETTINGS)


def main():
    """Time both, check that they agree, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4000, help="queries and gallery together")
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--plain-size", type=int, default=4000, help="rows of the comparison")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    features, ids = random_people(options.size, options.dim)
    cut = options.queries
    query, gallery = features[:cut], features[cut:]
    whole, metrics = timed(evaluated, (query, ids[:cut], gallery, ids[cut:]))
    peak = peak_memory_mb()
    print(metrics.table("re-ranked"))
    print(f"{len(query):,} x {len(gallery):,}: {whole:.2f} s, peak memory {peak:,.0f} MB")
    rows = min(options.plain_size, options.size)
    queries = max(1, rows * options.queries // options.size)
    sides = query[:queries], gallery[: rows - queries]
    ours, found = timed(rerank, sides)
    plain, expected = timed(plain_rerank, sides)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    print(f"{queries:,} x {rows - queries:,}: ours {ours:.2f} s, plain {plain:.2f} s, both equal")
    finish(
        plain / ours,
        **{"queries": len(query), "gallery": len(gallery), "dim": options.dim},
        **{"threads": options.threads, "seconds": round(whole, 2), "peak_mb": round(peak)},
        **{"compared": rows, "compared_seconds": round(ours, 2)},
        **{"plain_seconds": round(plain, 2), "load": round(load, 2)},
    )


if __name__ == "__main__":
    main()
