"""Retrieval metrics against the authors' values, a slow loop and values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transreid_ssl import UserError
from transreid_ssl.retrieval import chance, evaluate, format_table, operating_points
from transreid_ssl.retrieval.ranks import FEW_POSITIVES, _ranks_by_searching, ranks

REFERENCE = Path(__file__).parent / "reference.npz"


def slow_metrics(distances, query_ids, query_cams, gallery_ids, gallery_cams, max_rank):
    """The protocol said out loud: sort, remove, walk down the list."""
    precisions, penalties, curves = [], [], []
    for row, identity, q in zip(distances, query_ids, range(len(query_ids))):
        hits = []
        for g in np.argsort(row, kind="stable"):
            same = identity != -1 and gallery_ids[g] == identity
            if same and query_cams is not None and gallery_cams[g] == query_cams[q]:
                continue
            hits.append(bool(same))
        if not any(hits):
            precisions.append(np.nan)
            continue
        places = np.flatnonzero(hits)
        precisions.append(np.mean([(n + 1) / (place + 1) for n, place in enumerate(places)]))
        penalties.append(len(places) / (places[-1] + 1))
        curves.append([any(hits[:k]) for k in range(1, max_rank + 1)])
    return np.array(precisions), np.mean(penalties), np.mean(curves, axis=0)


def random_case(seed, num_queries, num_gallery, cameras=True):
    """Small integer features: exact distances with many ties, distractors, unmatched queries."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-1, 2, (num_queries + num_gallery, 3)).astype(np.float32)
    ids = rng.integers(-1, 5, len(features))
    cams = rng.integers(0, 3, len(features)) if cameras else None
    parts = [features[:num_queries], ids[:num_queries], cams[:num_queries] if cameras else None]
    rest = [features[num_queries:], ids[num_queries:], cams[num_queries:] if cameras else None]
    return parts + rest


def squared_distances(a, b):
    return np.square(a[:, None] - b[None]).sum(2)


def test_market_protocol_reference():
    r = np.load(REFERENCE)
    sides = [
        r[f"{side}_{part}"] for side in ("query", "gallery") for part in ("features", "ids", "cams")
    ]
    for metric in ("cosine", "euclidean"):
        metrics = evaluate(*sides, metric=metric)
        assert metrics.mAP == pytest.approx(float(r["mAP"]), abs=1e-7)
        np.testing.assert_allclose(metrics.cmc, r["cmc50"], atol=1e-6)
    assert metrics.cameras_used
    assert metrics.num_valid_queries == 120


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 12),
    num_gallery=st.integers(1, 90),
    cameras=st.booleans(),
    chunk=st.integers(1, 13),
)
def test_slow_loop(seed, num_queries, num_gallery, cameras, chunk):
    case = random_case(seed, num_queries, num_gallery, cameras)
    distances = squared_distances(case[0], case[3])
    max_rank = 7
    matched = [
        any(
            i != -1 and i == j and (not cameras or case[2][q] != case[5][g])
            for g, j in enumerate(case[4])
        )
        for q, i in enumerate(case[1])
    ]
    if not any(matched):
        with pytest.raises(UserError, match="has a match"):
            evaluate(*case, metric="euclidean", chunk=chunk)
        return
    metrics = evaluate(*case, metric="euclidean", chunk=chunk, max_rank=max_rank)
    precisions, penalty, curve = slow_metrics(
        distances, case[1], case[2], case[4], case[5], max_rank
    )
    np.testing.assert_allclose(metrics.average_precision, precisions)
    assert metrics.mAP == pytest.approx(np.nanmean(precisions))
    assert metrics.mINP == pytest.approx(penalty)
    np.testing.assert_allclose(metrics.cmc, curve)
    assert metrics.num_valid_queries == sum(matched)
    assert metrics.cameras_used == cameras


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), many=st.booleans())
def test_every_way_of_ranking_is_a_stable_sort(seed, many):
    rng = np.random.default_rng(seed)
    scale = np.float32(rng.choice([-0.0, 1.0, 0.5]))
    block = rng.integers(-3, 4, (4, 120)).astype(np.float32) * scale
    size = rng.integers(FEW_POSITIVES + 1, 100) if many else rng.integers(0, FEW_POSITIVES)
    chosen = [np.sort(rng.choice(120, size, replace=False)) for _ in range(4)]
    rows, columns = np.repeat(np.arange(4), size), np.concatenate(chosen)
    expected = np.argsort(np.argsort(block, kind="stable"), kind="stable")[rows, columns]
    np.testing.assert_array_equal(ranks(torch.from_numpy(block), rows, columns), expected)
    np.testing.assert_array_equal(
        _ranks_by_searching(torch.from_numpy(block), rows, columns), expected
    )


def test_by_hand():
    # Ranked for the query (identity 1, camera 0): a junk row, a distractor, a match, someone
    # else, a match; so the matches stand second and fourth of four.
    gallery = np.array([[1.0], [2], [3], [4], [5]])
    ids, cams = np.array([1, -1, 1, 2, 1]), np.array([0, 0, 1, 1, 2])
    metrics = evaluate([[0.0]], [1], [0], gallery, ids, cams, metric="euclidean", max_rank=4)
    assert metrics.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metrics.mINP == pytest.approx(2 / 4)
    np.testing.assert_array_equal(metrics.cmc, [0, 1, 1, 1])


def test_without_cameras_nothing_is_removed():
    gallery = np.array([[1.0], [2], [3]])
    metrics = evaluate([[1.0]], [1], None, gallery, [1, 2, 1], None, metric="euclidean")
    assert metrics.mAP == pytest.approx((1 + 2 / 3) / 2)
    assert not metrics.cameras_used
    assert "nothing is removed" in metrics.note


def test_gallery_order_does_not_matter():
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((20, 8)), rng.standard_normal((200, 8))
    ids, cams = rng.integers(0, 9, 220), rng.integers(0, 4, 220)
    turn = rng.permutation(200)
    labels = (query, ids[:20], cams[:20])
    one = evaluate(*labels, gallery, ids[20:], cams[20:])
    other = evaluate(*labels, gallery[turn], ids[20:][turn], cams[20:][turn], chunk=3)
    np.testing.assert_array_equal(one.average_precision, other.average_precision)
    np.testing.assert_array_equal(one.cmc, other.cmc)


def test_chance_is_the_mean_of_random_rankings():
    rng = np.random.default_rng(0)
    query_ids, query_cams = np.array([0, 1, 2]), np.array([0, 1, 0])
    gallery_ids, gallery_cams = rng.integers(-1, 3, 24), rng.integers(0, 3, 24)
    expected = chance(query_ids, query_cams, gallery_ids, gallery_cams, max_rank=20)
    runs = []
    for _ in range(3000):
        angles = rng.random(24) + 0.01  # a one-dimensional gallery in random order
        runs.append(
            evaluate(
                np.zeros((3, 1)), query_ids, query_cams, angles[:, None], gallery_ids, gallery_cams,
                metric="euclidean", max_rank=20,
            )
        )  # fmt: skip
    assert np.mean([run.mAP for run in runs]) == pytest.approx(expected.mAP, abs=0.006)
    assert np.mean([run.mINP for run in runs]) == pytest.approx(expected.mINP, abs=0.006)
    np.testing.assert_allclose(np.mean([run.cmc for run in runs], 0), expected.cmc, atol=0.02)


def test_chance_by_hand():
    # One match among two rows: first or second, half the time each.
    expected = chance([1], [0], [1, 2, 1], [1, 1, 0], max_rank=3)
    assert expected.mAP == pytest.approx(0.75)
    assert expected.mINP == pytest.approx(0.75)
    np.testing.assert_allclose(expected.cmc, [0.5, 1, 1])


def test_operating_points_count_pairs():
    rng = np.random.default_rng(0)
    ids, cams = rng.integers(-1, 6, 140), rng.integers(0, 3, 140)
    features = rng.standard_normal((140, 16)) + ids[:, None] * rng.standard_normal(16)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit[:40] @ unit[40:].T
    same = (ids[:40, None] == ids[40:]) & (ids[:40, None] != -1)
    junk = same & (cams[:40, None] == cams[40:])
    positive, negative = similarity[same & ~junk], np.sort(similarity[~same])[::-1]
    sides = (features[:40], ids[:40], cams[:40], features[40:], ids[40:], cams[40:])
    rates = (0.0, 0.01, 0.1, 1.0)
    points = operating_points(*sides, false_positive_rates=rates, chunk=7)
    found = {rate: point.accepted for rate, point in points.items()}
    for rate in rates[:-1]:
        threshold = negative[int(rate * len(negative))]  # accept what is above it
        assert found[rate] == pytest.approx(np.mean(positive > threshold), abs=1.5 / len(positive))
    assert found[1.0] == 1
    for rate, (accepted, threshold) in points.items():
        assert np.mean(positive > threshold) == pytest.approx(accepted, abs=1.5 / len(positive))
        assert np.mean(negative > threshold + 2e-6) <= rate


def test_mistakes_are_named():
    ok = ([[1.0, 2]], [1], [0], [[1.0, 2]], [1], [1])
    assert evaluate(*ok).mAP == 1
    with pytest.raises(UserError, match="NaN"):
        evaluate([[1.0, np.nan]], *ok[1:])
    with pytest.raises(UserError, match="has a match"):
        evaluate(*ok[:5], [0])
    with pytest.raises(ValueError, match="different models"):
        evaluate([[1.0]], *ok[1:])
    with pytest.raises(ValueError, match="neither"):
        evaluate(*ok[:5], None)
    with pytest.raises(ValueError, match="identities"):
        evaluate(ok[0], [1, 2], [0, 0], *ok[3:])
    with pytest.raises(ValueError, match="metric"):
        evaluate(*ok, metric="manhattan")
    with pytest.raises(ValueError, match="rank 51"):
        evaluate(*ok).rank(51)


def test_table_and_dictionary():
    metrics = evaluate([[1.0, 2]], [1], [0], [[1.0, 2]], [1], [1])
    assert metrics.as_dict()["rank-10"] == 1
    assert metrics.as_dict()["num_queries"] == 1
    table = format_table({"model": metrics, "chance": metrics}).splitlines()
    assert len({len(line) for line in table[:3]}) == 1
    assert "100.0%" in table[1]
    assert "1 of 1 query has a match among 1 gallery image" in table[3]
