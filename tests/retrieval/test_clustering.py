"""Jaccard graph and clusters against the authors' values and a slow, dense version."""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from slow_reciprocal import slow_graph, squared_distances
from transreid_ssl import UserError
from transreid_ssl.retrieval import cluster, clustering, jaccard_graph, reciprocal

REFERENCE = np.load(Path(__file__).parent / "reference_reciprocal.npz")
EPS = ("0.5", "0.6", "0.7")


def people(seed, size=60, identities=6, dim=8):
    """Clustered features in steps of 1/512: their distances are exact in float32 too."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(-300, 301, (identities, dim))
    spread = rng.integers(-120, 121, (size, dim))
    return ((centres[rng.integers(0, identities, size)] + spread) / 512).astype(np.float32)


def dense(graph, missing):
    """The graph as a matrix; ``missing`` where nothing is stored."""
    matrix, entries = np.full(graph.shape, missing, np.float32), graph.tocoo()
    matrix[entries.row, entries.col] = entries.data
    return matrix


def same_clusters(labels, others):
    """Whether the two labellings differ in the names of the clusters only."""
    pairs = {(a, b) for a, b in zip(labels.tolist(), others.tolist())}
    names, other_names = ({pair[side] for pair in pairs} for side in (0, 1))
    outliers = all((a == -1) == (b == -1) for a, b in pairs)
    return outliers and len(pairs) == len(names) == len(other_names)


def test_published_distances():
    graph = jaccard_graph(REFERENCE["clustering_features"], k1=30, k2=6, max_distance=1.0)
    np.testing.assert_allclose(dense(graph, 1)[::20], REFERENCE["jaccard"], atol=5e-6)


@pytest.mark.parametrize("eps", EPS)
def test_published_clusters(eps):
    features, expected = REFERENCE["clustering_features"], REFERENCE[f"dbscan_eps{eps}"]
    labels = cluster(features, eps=float(eps))
    assert labels.dtype == np.int64
    assert same_clusters(labels, expected)
    assert len(set(expected.tolist())) > 2


def border_clusters(graph, labels, eps):
    """Cores, bool (N,), and for each other image the clusters of the cores within reach."""
    near = dense(graph, 2) <= np.float32(eps)
    cores = near.sum(1) >= 4
    return cores, [set() if core else set(labels[row & cores]) for row, core in zip(near, cores)]


@pytest.mark.parametrize("eps", EPS)
def test_published_clusters_of_shuffled_images(eps):
    """Only an image that is no core, within reach of two clusters, may be in the other one."""
    features, published = REFERENCE["clustering_features"], REFERENCE[f"dbscan_eps{eps}"]
    graph = jaccard_graph(features, max_distance=float(eps))
    cores, within_reach = border_clusters(graph, published, eps)
    torn = np.array([len(clusters) > 1 for clusters in within_reach])
    assert cores.sum() > 300
    assert torn.sum() == {"0.5": 0, "0.6": 2, "0.7": 4}[eps]
    for seed in range(5):
        turn = np.random.default_rng(seed).permutation(len(features))
        labels = cluster(features[turn], eps=float(eps))
        np.testing.assert_array_equal(labels == -1, published[turn] == -1)
        sure = ~torn[turn]
        assert same_clusters(labels[sure], published[turn][sure])
        new_names = dict(zip(published[turn][sure].tolist(), labels[sure].tolist()))
        for place in np.flatnonzero(~sure):
            assert labels[place] in {new_names[c] for c in within_reach[turn[place]]}


@pytest.mark.parametrize("eps", EPS)
def test_shuffled_images_as_scikit_learn_has_them(eps):
    features = REFERENCE["clustering_features"]
    distances = dense(jaccard_graph(features, max_distance=1.0), 1)
    for seed in range(2):
        turn = np.random.default_rng(seed).permutation(len(features))
        whole = DBSCAN(eps=float(eps), min_samples=4, metric="precomputed")
        expected = whole.fit_predict(distances[turn][:, turn])
        np.testing.assert_array_equal(cluster(features[turn], eps=float(eps)), expected)


@pytest.mark.parametrize("eps", EPS)
def test_borders_may_follow_the_nearest_core_in_any_order(eps):
    features = REFERENCE["clustering_features"]
    first, nearest = (cluster(features, float(eps), borders=b) for b in ("first", "nearest"))
    graph = jaccard_graph(features, max_distance=float(eps))
    cores, within_reach = border_clusters(graph, first, eps)
    distances = np.where(cores, dense(graph, 2), 2)  # to cores only
    for image, clusters in enumerate(within_reach):
        expected = first[distances[image].argmin()] if clusters else first[image]
        assert nearest[image] == expected
    for seed in range(5):
        turn = np.random.default_rng(seed).permutation(len(features))
        labels = cluster(features[turn], eps=float(eps), borders="nearest")
        assert same_clusters(labels, nearest[turn])


@pytest.mark.parametrize("reach", [0.45, 0.6, 0.9, 1])
def test_images_of_no_cluster_join_that_of_the_nearest_image(reach):
    graph = jaccard_graph(REFERENCE["clustering_features"], max_distance=1.0)
    labels, distances = clustering.cluster_graph(graph, 0.4), dense(graph, 2)
    joined, inside = clustering.join_outliers(labels, graph, reach), labels >= 0
    assert (~inside).any()
    for image, label in enumerate(labels):
        to_others = np.where(inside, distances[image], 2).round(5)
        nearest = {labels[other] for other in np.flatnonzero(to_others == to_others.min())}
        expected = {label} if label >= 0 else nearest if to_others.min() <= reach else {-1}
        assert joined[image] in expected
    assert (labels < 0).sum() > (joined < 0).sum()
    np.testing.assert_array_equal(clustering.join_outliers(labels, graph, 1e-6), labels)


def test_of_equally_near_cores_the_larger_cluster_decides():
    # Cores 0 to 2, cores 3 to 6, and image 7 as far from 2 as from 6; image 8 is alone.
    graph, labels = np.full((9, 9), np.inf, np.float32), np.array([0, 0, 0, 1, 1, 1, 1, 0, -1])
    graph[2, 7] = graph[7, 2] = graph[7, 6] = graph[6, 7] = 0.5
    np.fill_diagonal(graph, 0)
    rows, columns = np.nonzero(np.isfinite(graph))
    sparse = csr_matrix((graph[rows, columns], (rows, columns)), shape=graph.shape)
    clustering._join_nearest(labels, sparse, np.arange(7))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, -1]


def test_same_clusters_tells_apart():
    one = np.array([0, 0, 1, -1])
    assert same_clusters(one, np.array([5, 5, 2, -1]))
    assert not same_clusters(one, np.array([0, 0, 0, -1]))
    assert not same_clusters(one, np.array([0, 2, 1, -1]))
    assert not same_clusters(one, np.array([0, 0, 1, 2]))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    k1=st.integers(1, 20),
    k2=st.integers(1, 6),
    eps=st.floats(0.05, 0.99),
    copies=st.integers(0, 12),
)
def test_dense_version(seed, k1, k2, eps, copies):
    k2, features = min(k1, k2), people(seed)
    features[:copies] = features[-1]  # equal images, at distance zero: zeros that must be stored
    expected = slow_graph(features, k1, k2)
    assume(np.abs(expected - eps).min() > 1e-5)
    graph = jaccard_graph(features, k1, k2, max_distance=eps, metric="euclidean")
    found = dense(graph, np.inf)
    np.testing.assert_array_equal(np.isfinite(found), expected <= eps)
    np.testing.assert_allclose(found[expected <= eps], expected[expected <= eps], atol=2e-6)
    labels = cluster(features, eps, 4, k1, k2, metric="euclidean")
    whole = DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(expected.clip(0))
    np.testing.assert_array_equal(labels, whole.labels_)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    bound=st.floats(0.1, 1),
    chunk=st.integers(1, 70),
    limit=st.integers(1, 5000),
)
def test_invariances(seed, bound, chunk, limit):
    features = people(seed)
    ordered = np.sort(squared_distances(features), axis=1)
    assume((np.diff(ordered, axis=1) > 0).all())
    graph = jaccard_graph(features, 10, 4, bound, metric="euclidean")
    assert graph.format == "csr"
    assert graph.has_canonical_format
    assert (graph != graph.T).nnz == 0
    assert graph.data.min() >= 0
    assert graph.data.max() <= np.float32(bound)
    entries = set(zip(*graph.nonzero(), strict=True)) | {(i, i) for i in range(len(features))}
    assert len(entries) <= graph.nnz  # the diagonal is stored
    products = mock.patch.object(reciprocal, "PRODUCTS_AT_ONCE", limit)
    with products, mock.patch.object(clustering, "PAIRS_AT_ONCE", limit):
        parts = jaccard_graph(features, 10, 4, bound, metric="euclidean", chunk=chunk)
    np.testing.assert_array_equal(dense(parts, 2), dense(graph, 2))
    turn = np.random.default_rng(seed).permutation(len(features))
    turned = jaccard_graph(features[turn], 10, 4, bound, metric="euclidean")
    assume(np.abs(graph.data - bound).min() > 1e-5)
    wide = dense(graph, 2)[turn][:, turn]
    np.testing.assert_allclose(dense(turned, 2), wide, atol=1e-6)


def test_unit_length_by_default():
    features = people(3)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    graph = jaccard_graph(torch.from_numpy(features), k1=10, k2=4, max_distance=1.0)
    np.testing.assert_allclose(dense(graph, 1), slow_graph(unit, 10, 4), atol=1e-5)


def test_far_apart_and_all_equal():
    apart = np.eye(40, dtype=np.float32) * 100  # every weight but an image's own vanishes
    labels = cluster(apart, k1=5, k2=1, metric="euclidean")
    assert (labels == -1).all()
    assert (cluster(np.ones((80, 4)), k1=30) == 0).all()


def test_mistakes_are_named():
    features = people(0)
    with pytest.raises(UserError, match="k1=61 needs 61 images, not 60") as caught:
        cluster(features, k1=61)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="k2"):
        cluster(features, k1=4, k2=5)
    with pytest.raises(ValueError, match="borders must be one of first, nearest"):
        cluster(features, borders="last")
    for bound in (0, 1.1, np.nan):
        with pytest.raises(UserError, match="max_distance"):
            jaccard_graph(features, max_distance=bound)
    with pytest.raises(UserError, match="eps"):
        cluster(features, eps=0)
    with pytest.raises(UserError, match="min_samples"):
        cluster(features, min_samples=0)
    with pytest.raises(UserError, match="NaN"):
        cluster(np.full((50, 4), np.nan))


def test_communities_are_groups_of_close_images():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 6, 90)
    features = rng.standard_normal((6, 16))[truth] + 0.15 * rng.standard_normal((90, 16))
    labels = cluster(features, eps=0.7, min_samples=4, k1=8, k2=3, method="louvain")
    assert adjusted_rand_score(truth[labels >= 0], labels[labels >= 0]) > 0.9
    assert (labels >= 0).mean() > 0.8
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(labels.max() + 1)]
    assert first == sorted(first)
    assert np.bincount(labels[labels >= 0]).min() >= 4
    assert (cluster(features, eps=0.7, min_samples=50, k1=8, k2=3, method="louvain") == -1).all()


def test_communities_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sknetwork.clustering", None)
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r'^method="louvain": needs scikit-network; .*dbscan$'):
        cluster(features, k1=4, k2=2, method="louvain")
