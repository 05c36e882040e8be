"""Nearest neighbours against a brute-force stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transreid_ssl.retrieval import nearest_neighbours, ranked_gallery
from transreid_ssl.retrieval.blocks import ordered_keys
from transreid_ssl.retrieval.neighbours import _smallest_by_keys, smallest


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 60),
    k=st.integers(1, 70),
    chunk=st.integers(1, 70),
    exclude_self=st.booleans(),
)
def test_brute_force_with_ties(seed, rows, k, chunk, exclude_self):
    features = np.random.default_rng(seed).integers(-1, 2, (rows, 3)).astype(np.float32)
    distances = np.sqrt(np.square(features[:, None] - features[None]).sum(2))
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1, kind="stable")[:, : min(k, rows - exclude_self)]
    found, indices = nearest_neighbours(
        features, k=k, metric="euclidean", chunk=chunk, exclude_self=exclude_self
    )
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(found, np.take_along_axis(distances, expected, 1), atol=1e-6)


def test_cosine_in_another_gallery():
    queries, gallery = torch.randn(5, 7), torch.randn(30, 7)
    found, indices = nearest_neighbours(queries, gallery, k=4)
    cosine = 1 - torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2)
    expected, order = cosine.sort(dim=1)
    assert torch.equal(indices, order[:, :4])
    torch.testing.assert_close(found, expected[:, :4])


def test_keys_order_like_a_stable_sort():
    values = torch.tensor([[0.0, -0.0, 2.5, -1.0, -3e38, float("inf"), -1.0, 1e-40, 0.0]])
    order = values.sort(dim=1, stable=True).indices
    assert torch.equal(ordered_keys(values).argsort(dim=1), order)


def test_both_ways_of_selecting_agree():
    block = torch.randint(-2, 3, (6, 50)).float() / 3
    _, columns = smallest(block, 9)
    assert torch.equal(columns, block.sort(dim=1, stable=True).indices[:, :9])
    assert torch.equal(columns, _smallest_by_keys(block, 9))


def test_mistakes_are_named():
    features = torch.randn(3, 2)
    with pytest.raises(ValueError, match="give no gallery"):
        nearest_neighbours(features, features, k=1, exclude_self=True)
    with pytest.raises(ValueError, match="at least 1"):
        nearest_neighbours(features, k=0)


def test_ranked_gallery_leaves_junk_out():
    gallery = np.array([[1.0], [2], [3], [4]])
    distances, rows, correct = ranked_gallery(
        [[0.0]], [1], [0], gallery, [1, -1, 1, 2], [0, 0, 1, 1], metric="euclidean", k=4
    )
    assert rows.tolist() == [[1, 2, 3, 0]]
    assert correct.tolist() == [[False, True, False, False]]
    assert distances.tolist() == [[2, 3, 4, np.inf]]
