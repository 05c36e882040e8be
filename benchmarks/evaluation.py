"""Retrieval metrics: ours beside a plain dense routine, on the same random features.

    python -m benchmarks.evaluation                      # Market-1501's size, 3,368 x 15,913
    python -m benchmarks.evaluation --size msmt17        # 11,659 x 82,161
    python -m benchmarks.evaluation --dim 64 --threads 2

The plain routine is what most ReID code does: the whole distance matrix, an argsort of every row,
matches as a matrix in that order, and a loop over the queries with a precision at every rank. At
MSMT17's size it would need 30 GB, so there the two are compared on the first 1,000 queries; the
whole of it is run by ours alone. ``ratio`` is plain time over ours.
"""

import argparse
import time

import numpy as np
import torch

from benchmarks.reporting import finish, peak_memory_mb
from transreid_ssl.retrieval import evaluate

SIZES = {  # queries, gallery rows, identities, distractor rows, cameras
    "market1501": (3368, 15913, 750, 2798, 6),
    "msmt17": (11659, 82161, 3060, 0, 15),
}


def random_people(size, dim, seed=0):
    """(features, identities, cameras) of the queries, then of the gallery."""
    num_queries, num_gallery, identities, distractors, cameras = SIZES[size]
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, identities, num_queries + num_gallery)
    ids[num_queries : num_queries + distractors] = -1
    centres = rng.standard_normal((identities + 1, dim), dtype=np.float32)
    # Some images are harder than others; more dimensions tell people apart better.
    spread = rng.gamma(8.0, (dim / 64) ** 0.25 / 6, (len(ids), 1)).astype(np.float32)
    features = centres[ids] + spread * rng.standard_normal((len(ids), dim), dtype=np.float32)
    background = rng.standard_normal((distractors, dim), dtype=np.float32)
    features[num_queries : num_queries + distractors] = 1.5 * background
    cams = rng.integers(0, cameras, len(ids))
    cut = num_queries
    return features[:cut], ids[:cut], cams[:cut], features[cut:], ids[cut:], cams[cut:]


def plain_dense(query, query_ids, query_cams, gallery, gallery_ids, gallery_cams):
    """(mAP, CMC) by sorting everything: Q x G distances, positions, matches and junk flags."""
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    distances = -(torch.from_numpy(query) @ torch.from_numpy(gallery).T).numpy()
    order = np.argsort(distances, axis=1)
    same = gallery_ids[order] == query_ids[:, None]
    junk = same & (gallery_cams[order] == query_cams[:, None])
    precisions, curves = [], []
    for matched, removed in zip(same, junk):
        hits = matched[~removed]
        if hits.any():
            found = np.cumsum(hits)
            precision = found / np.arange(1, len(hits) + 1)
            precisions.append((precision * hits).sum() / found[-1])
            curves.append(found[:50] > 0)
    return np.mean(precisions), np.mean(curves, axis=0)


def timed(function, people):
    """Seconds of one call, and what it returned.

    With one thread they are seconds of this process, which other programs disturb little.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    result = function(*people)
    return clock() - begin, result


def main():
    """Time both, check that they agree, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="market1501")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    people = random_people(options.size, options.dim)
    whole, metrics = timed(evaluate, people)
    peak = peak_memory_mb()
    print(metrics.table())
    print(f"the whole of it: {whole:.2f} s, peak memory of the process {peak:,} MB")
    limit = 1000 if options.size == "msmt17" else len(people[0])
    part = [values[:limit] for values in people[:3]]
    ours, plain = compare((*part, *people[3:]), options.rounds)
    print(f"{len(part[0]):,} queries: ours {ours:.2f} s, plain {plain:.2f} s")
    finish(
        plain / ours,
        **{"size": options.size, "dim": options.dim, "threads": options.threads},
        **{"queries": len(part[0]), "seconds": round(ours, 3), "plain_seconds": round(plain, 3)},
        **{"whole_seconds": round(whole, 3), "peak_mb": round(peak)},
    )


def compare(people, rounds):
    """The fastest seconds of ours and of the plain routine, in turns, as others use the machine."""
    seconds = []
    for _ in range(rounds):
        ours, metrics = timed(evaluate, people)
        plain, (mean_ap, cmc) = timed(plain_dense, people)
        assert np.isclose(metrics.mAP, mean_ap, atol=1e-5)
        assert np.allclose(metrics.cmc, cmc, atol=1e-3)
        seconds.append((ours, plain))
    return np.min(seconds, axis=0).tolist()


if __name__ == "__main__":
    main()
