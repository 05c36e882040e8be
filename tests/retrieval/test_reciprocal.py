"""k-reciprocal encoding and re-ranking against the authors' values and a slow, plain version."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from slow_reciprocal import (
    nearest,
    relative,
    slow_codes,
    slow_jaccard,
    slow_rerank,
    squared_distances,
)
from transreid_ssl import UserError
from transreid_ssl.retrieval import Reranking, evaluate, expand_queries, reciprocal, rerank
from transreid_ssl.retrieval.reciprocal import encode
from transreid_ssl.retrieval.reranking import RerankedBlocks

FOLDER = Path(__file__).parent


def people(seed, size=48, identities=6, dim=8):
    """Clustered features in steps of 1/512: their distances are exact in float32 too."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-300, 301, (identities, dim))
    spread = rng.integers(-120, 121, (size, dim))
    return ((centres[rng.integers(0, identities, size)] + spread) / 512).astype(np.float32)


def has_ties(features):
    ordered = np.sort(squared_distances(features), axis=1)
    return (np.diff(ordered, axis=1) == 0).any()


@pytest.fixture(scope="module")
def market():
    """(features of the queries, of the gallery, their labels, and the published values)."""
    sides, values = np.load(FOLDER / "reference.npz"), np.load(FOLDER / "reference_reciprocal.npz")
    labels = [
        [sides[f"{side}_{part}"] for part in ("ids", "cams")] for side in ("query", "gallery")
    ]
    return sides["query_features"], sides["gallery_features"], labels, values


def test_published_reranking(market):
    query, gallery, _, values = market
    both, published = np.concatenate([query, gallery]), values["rerank_dist"]
    # The published program adds up in half precision, and so does ours where asked to; otherwise
    # it agrees with the plain version in double precision.
    halves = rerank(query, gallery, precision="fp16")
    np.testing.assert_allclose(halves[::6], published, atol=1e-6)
    ours = rerank(query, gallery)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, slow_rerank(both, len(query), 20, 6, 0.3), atol=2e-6)
    np.testing.assert_allclose(ours[::6], published, atol=3e-3)


def test_published_metrics(market):
    query, gallery, labels, values = market
    sides = query, *labels[0], gallery, *labels[1]
    metrics = evaluate(*sides, rerank=Reranking())
    assert metrics.mAP == pytest.approx(float(values["rerank_mAP"]), abs=2e-4)
    np.testing.assert_allclose(metrics.cmc, values["rerank_cmc50"], atol=1e-6)
    again = evaluate(*sides, rerank=Reranking(), chunk=7)
    assert again.mAP == pytest.approx(metrics.mAP, abs=1e-6)
    assert metrics.mAP > evaluate(*sides).mAP + 0.2
    halves = evaluate(*sides, rerank=Reranking(precision="fp16"))
    assert halves.mAP == pytest.approx(float(values["rerank_mAP"]), abs=1e-6)
    np.testing.assert_allclose(halves.cmc, values["rerank_cmc50"], atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), k1=st.integers(1, 20), k2=st.integers(1, 20))
def test_codes_of_the_slow_version(seed, k1, k2):
    k2 = min(k2, k1)
    features = people(seed)
    features[:5] = features[5]  # equal images
    for size in (k1, k1 + 1):
        codes = encode(
            features, k1=k1, k2=k2, neighbourhood=size, relative=False, metric="euclidean"
        ).codes
        expected = slow_codes(squared_distances(features), size, round(k1 / 2) + 1, k2)
        np.testing.assert_allclose(codes.toarray(), expected, atol=1e-6)
        assert codes.has_canonical_format
        assert codes.dtype == np.float32


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    k1=st.integers(1, 20),
    k2=st.integers(1, 6),
    kept=st.floats(0, 1),
)
def test_slow_reranking(seed, k1, k2, kept):
    k2, features = min(k2, k1 + 1), people(seed)
    found = rerank(features[:9], features[9:], k1, k2, kept, metric="euclidean")
    np.testing.assert_allclose(found, slow_rerank(features, 9, k1, k2, kept), atol=2e-6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assume(not has_ties(unit.round(5)))
    turned = rerank(features[:9], features[9:], k1, k2, kept)
    np.testing.assert_allclose(turned, slow_rerank(unit, 9, k1, k2, kept), atol=2e-6)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), k1=st.integers(4, 20), k2=st.integers(1, 4))
@example(seed=1716, k1=13, k2=1)  # one row whose weights lie between halves, twice
def test_slow_reranking_in_half_precision(seed, k1, k2):
    features = people(seed)
    relative_distances = relative(squared_distances(features, np.float32))
    how = {"k1": k1, "k2": k2, "neighbourhood": k1 + 1, "relative": True, "metric": "euclidean"}
    codes = encode(features, **how, precision="fp16").codes.toarray()
    expected = slow_codes(relative_distances, k1 + 1, round(k1 / 2) + 1, k2, np.float16)
    # A weight between two halves may be rounded to either, by an error in its last digit.
    assert (codes == expected).mean() > 0.98
    np.testing.assert_array_less(np.abs(codes - expected), 1.01 * np.spacing(expected))
    # From one and the same weights the distances are exact.
    jaccard = slow_jaccard(codes.astype(np.float16), 9)[:, 9:]
    found = rerank(features[:9], features[9:], k1, k2, 0.3, precision="fp16", metric="euclidean")
    np.testing.assert_allclose(found, 0.7 * jaccard + 0.3 * relative_distances[:9, 9:], atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), chunk=st.integers(1, 50), limit=st.integers(1, 5000))
def test_chunks_and_order_change_nothing(seed, chunk, limit):
    features = people(seed)
    assume(not has_ties(features))
    whole = rerank(features[:9], features[9:], 8, 3, metric="euclidean")
    with mock.patch.object(reciprocal, "PRODUCTS_AT_ONCE", limit):
        parts = rerank(features[:9], features[9:], 8, 3, metric="euclidean", chunk=chunk)
    assert torch.equal(whole, parts)
    rng = np.random.default_rng(seed)
    q, g = rng.permutation(9), rng.permutation(len(features) - 9)
    shuffled = rerank(features[:9][q], features[9:][g], 8, 3, metric="euclidean")
    np.testing.assert_allclose(shuffled, whole[q][:, g], atol=1e-6)


def test_by_hand():
    # On a line: 0, 1, 3 and 10. With two neighbours each, 0 and 1 name one another; 3 names 1,
    # and 10 names 3, in vain. The farthest image of 0 is 100 away, and that of 1 is 81.
    line = np.array([[0.0], [1], [3], [10]])
    encoding = encode(line, k1=1, k2=1, neighbourhood=2, relative=True, metric="euclidean")
    near = np.exp([-1 / 100, -1 / 81]) / (1 + np.exp([-1 / 100, -1 / 81]))
    expected = np.eye(4)
    expected[0, :2], expected[1, :2] = (1 - near[0], near[0]), (near[1], 1 - near[1])
    np.testing.assert_allclose(encoding.codes.toarray(), expected, atol=1e-6)
    np.testing.assert_allclose(encoding.farthest, [100, 81, 49, 100])
    shared = min(1 - near[0], near[1]) + min(near[0], 1 - near[1])
    distances = rerank(line[:1], line[1:], k1=1, k2=1, lambda_value=0.25, metric="euclidean")
    expected = [0.75 * (1 - shared / (2 - shared)) + 0.25 / 100, 0.75 + 0.25 * 0.09, 1]
    np.testing.assert_allclose(distances[0], expected, atol=1e-6)


def test_equal_images_stand_first_in_their_own_lists():
    features = np.zeros((30, 4), np.float32)
    found = rerank(features[:10], features[10:], k1=5, k2=3)
    assert found.isfinite().all()
    codes = encode(features + 1, k1=5, k2=1, neighbourhood=6, relative=True).codes
    assert (codes.diagonal() > 0).all()
    assert (nearest(squared_distances(features))[:, 0] == np.arange(30)).all()


def test_lambda_one_is_the_distance_as_it_was():
    features = people(0)
    distances = squared_distances(features)
    found = rerank(features[:9], features[9:], 8, 3, 1.0, metric="euclidean")
    expected = (distances / distances.max(1, keepdims=True))[:9, 9:]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_queries_are_averaged_with_what_they_find():
    rng = np.random.default_rng(0)
    query, gallery = (torch.from_numpy(rng.standard_normal((n, 6))).float() for n in (5, 40))
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (query, gallery)]
    similarity = unit[0] @ unit[1].T
    for alpha in (0, 3):
        expected = unit[0].clone()
        for q in range(5):
            for g in similarity[q].argsort(descending=True)[:4]:
                expected[q] += similarity[q, g] ** alpha * unit[1][g]
        expected = torch.nn.functional.normalize(expected, dim=1)
        found = expand_queries(query, gallery, k=4, alpha=alpha)
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="alpha"):
        expand_queries(query, gallery, alpha=-1)


def test_mistakes_are_named():
    features = people(0)
    sides = features[:9], features[9:]
    with pytest.raises(UserError, match=r"k1=48 needs 49 images, not 48") as caught:
        rerank(*sides, k1=48)
    assert "\n" not in str(caught.value)
    for k1, k2 in ((0, 1), (5, 0), (5, 7)):
        with pytest.raises(UserError, match="k1 and k2"):
            rerank(*sides, k1=k1, k2=k2)
    with pytest.raises(UserError, match="lambda_value"):
        rerank(*sides, lambda_value=1.5)
    with pytest.raises(ValueError, match="precision must be one of no, fp16"):
        rerank(*sides, precision="half")
    with pytest.raises(UserError, match="NaN"):
        rerank(np.full_like(sides[0], np.nan), sides[1])
    with pytest.raises(ValueError, match="different models"):
        RerankedBlocks(features[:9, :2], features[9:])
