"""Whitening learnt from unlabelled features."""

import numpy as np
import pytest

from transreid_ssl import UserError, retrieval

RNG = np.random.default_rng(0)
MIXING = RNG.normal(size=(12, 12)) * np.geomspace(1, 30, 12)


def images(people, each, noise):
    """Features float32 (people · each, 12) of people who differ alike in all directions, and noise
    that is strong in some: what images of one place have in common."""
    who = np.repeat(RNG.normal(size=(people, 12)), each, axis=0)
    return (who + RNG.normal(size=who.shape) * noise).astype(np.float32)


def test_new_features_of_the_kind_vary_alike_in_all_directions():
    sample, others = (RNG.normal(size=(4000, 12)) @ MIXING + 5 for _ in range(2))
    mean, matrix, shrinkage = retrieval.learn_whitening(sample, 7)
    assert (mean.shape, matrix.shape) == ((12,), (12, 7))
    assert 0 <= shrinkage < 0.1
    found = (others - mean) @ matrix
    np.testing.assert_allclose(found.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(found.T), np.eye(7), atol=0.15)
    # In the order of how much the features vary: the first direction is the strongest.
    spreads = (others @ matrix / np.linalg.norm(matrix, axis=0)).std(0)
    assert (np.diff(spreads) < 0).all()


def test_people_are_found_again_behind_what_all_images_share():
    noise = np.geomspace(0.05, 20, 12)
    pool, query, gallery = images(300, 2, noise), *np.split(images(60, 2, noise), 2)
    together = np.concatenate([query, gallery])
    query, gallery = together[::2], together[1::2]
    ids = np.arange(len(query))
    mean, matrix, _ = retrieval.learn_whitening(pool, 12)
    cameras = ids * 0, ids * 0 + 1

    def measure(query, gallery):
        return retrieval.evaluate(query, ids, cameras[0], gallery, ids, cameras[1]).mAP

    before = measure(query, gallery)
    after = measure((query - mean) @ matrix, (gallery - mean) @ matrix)
    assert after > before + 0.3


def test_few_images_are_drawn_to_noise_and_too_few_refused():
    few = (RNG.normal(size=(24, 40))).astype(np.float32)
    _, matrix, shrinkage = retrieval.learn_whitening(few, 40)
    assert shrinkage > 0.5
    assert np.isfinite(matrix).all()
    with pytest.raises(UserError, match="19 images: too few to whiten by; give 20 or more"):
        retrieval.learn_whitening(few[:19], 5)
    with pytest.raises(UserError, match=r"vary in fewer than 5 directions: give more images"):
        retrieval.learn_whitening(np.ones((30, 8)), 5)


def test_nearly_equal_features_in_many_directions_are_whitened_too():
    """As a network gives them that has hardly begun."""
    features = 1 + 1e-6 * RNG.normal(size=(60, 512)).astype(np.float32)
    assert np.isfinite(retrieval.whiten(features, dim=256)).all()


def test_features_are_whitened_by_a_sample_of_themselves():
    features = RNG.normal(size=(500, 12)) @ MIXING
    found = retrieval.whiten(features, dim=5, sample=200)
    assert found.shape == (500, 5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_array_equal(found, retrieval.whiten(features, dim=5, sample=200))
    mean, matrix, _ = retrieval.learn_whitening(features, 12)
    whole = (features - mean) @ matrix
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(
        retrieval.whiten(features) @ retrieval.whiten(features).T, whole @ whole.T, atol=1e-6
    )
