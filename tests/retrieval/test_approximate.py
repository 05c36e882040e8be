"""Approximate search against the exact one: recall, order, and the same outcome each time."""

import sys
from unittest import mock

import numpy as np
import pytest
import torch

from transreid_ssl import UserError
from transreid_ssl.retrieval import cluster, jaccard_graph, nearest_neighbours
from transreid_ssl.retrieval.blocks import DistanceBlocks


def people(size, dim, per_identity=20):
    """Unit features around one centre an identity, float32 (size, dim)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((size // per_identity, dim), dtype=np.float32)
    features = np.repeat(centres, per_identity, axis=0)
    features += 0.6 * rng.standard_normal(features.shape, dtype=np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def recall(found, exact):
    """The part of the exact lists that was found."""
    both = (found[:, :, None] == exact[:, None]).any(2)
    return both.float().mean().item()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_recall(metric):
    pytest.importorskip("faiss")
    features = people(2000, 64)
    exact = nearest_neighbours(features, k=30, metric=metric)
    found = nearest_neighbours(features, k=30, metric=metric, search="approximate")
    reached = recall(found[1], exact[1])
    print(f"recall of the nearest 30 among 2,000, {metric}: {reached:.4f}")
    assert reached > 0.98
    same = (found[1] == exact[1]).all(1)  # lists that are complete are in the same order
    assert same.float().mean() > 0.8
    torch.testing.assert_close(found[0][same], exact[0][same], atol=2e-3, rtol=0)
    first = nearest_neighbours(features, k=1, metric=metric, exclude_self=True)[1]
    again = nearest_neighbours(
        features, k=1, metric=metric, exclude_self=True, search="approximate"
    )[1]
    assert recall(again, first) > 0.99
    assert (again[:, 0] != torch.arange(len(features))).all()


def test_equal_distances_go_by_row():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    # Exact in float32, each image three times over: the lists are full of ties.
    features = np.tile(rng.integers(-9, 10, (50, 6)), (3, 1)).astype(np.float32)
    gallery = rng.permutation(features)
    for k in (3, 7, 40):
        exact = nearest_neighbours(features, gallery, k=k, metric="euclidean")
        found = nearest_neighbours(features, gallery, k=k, metric="euclidean", search="approximate")
        assert torch.equal(found[0], exact[0])
        assert torch.equal(found[1], exact[1]) or k == 40
        ordered = [
            sorted(zip(d, r)) == list(zip(d, r)) for d, r in zip(*map(torch.Tensor.tolist, found))
        ]
        assert all(ordered)


def test_the_same_each_time_and_whatever_the_threads():
    pytest.importorskip("faiss")
    features, threads = people(1000, 32), torch.get_num_threads()
    one = nearest_neighbours(features, k=30, search="approximate")
    torch.set_num_threads(4)
    try:
        other = nearest_neighbours(features, k=30, search="approximate")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_more_equal_images_than_the_graph_can_tell_apart():
    pytest.importorskip("faiss")
    features = np.ones((300, 4), np.float32)
    features[:20, 0] = np.arange(20)
    for k in (30, 300):
        distances, rows = nearest_neighbours(features, k=k, search="approximate")
        assert (rows.sort(dim=1).values.diff(dim=1) > 0).all()
        assert distances.isfinite().all()
    assert rows.shape == (300, 300)
    assert (jaccard_graph(features, search="approximate").diagonal() == 0).all()


def test_clusters():
    pytest.importorskip("faiss")
    features = people(600, 64)
    exact = cluster(features, k1=20)
    found = cluster(features, k1=20, search="approximate")
    assert len(set(exact.tolist())) > 20
    assert np.mean(exact == found) > 0.98


def test_values_are_those_of_the_blocks():
    features = torch.from_numpy(np.random.default_rng(0).integers(-9, 10, (40, 5))).float()
    rows = torch.randint(0, 40, (8, 6))
    for metric in ("cosine", "euclidean"):
        blocks = DistanceBlocks(features, features, metric=metric, chunk=8)
        _, whole = next(iter(DistanceBlocks(features, features, metric=metric)))
        torch.testing.assert_close(blocks.at(16, rows), whole[16:24].gather(1, rows))


def test_mistakes_are_named():
    features = people(100, 8)
    with pytest.raises(ValueError, match="search must be one of exact, approximate"):
        nearest_neighbours(features, k=1, search="fast")
    with mock.patch.dict(sys.modules, {"faiss": None}):
        with pytest.raises(UserError, match=r"pip install 'transreid_ssl\[faiss\]'") as caught:
            cluster(features, search="approximate")
        assert "\n" not in str(caught.value)
        assert len(cluster(features)) == 100
