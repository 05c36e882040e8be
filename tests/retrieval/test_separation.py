"""Pairs that tracks are sure of, and how well features tell them apart: beside plain formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from transreid_ssl import UserError
from transreid_ssl.retrieval import camera_share, effective_rank, find_sure_pairs, separate
from transreid_ssl.retrieval.separation import FIGURES
from transreid_ssl.retrieval.sure_pairs import SurePairs


def known(rows):
    """Tracks of rows (video, track, frame)."""
    videos, tracks, frames = np.array(rows, np.int64).T
    return SimpleNamespace(videos=videos, tracks=tracks, frames=frames)


def walks(count=12, step=1, shift=0):
    """Tracks of 20 images each, four to a video, begun some frames apart, in a mixed order."""
    rows = [
        (t // 4, t, 3 * t + shift * (t % 4) + step * i) for t in range(count) for i in range(20)
    ]
    return known(np.random.default_rng(0).permutation(rows))


def measure(same, different, tracks=None):
    """The figures by name, of similarities of which each is of a track of its own by default."""
    places = np.arange(2 * (len(same) + len(different))).reshape(-1, 2)
    own = places.ravel() // 2 if tracks is None else tracks
    pairs = SurePairs(places[: len(same)], places[len(same) :], True, own)
    found = separate(np.asarray(same, float), np.asarray(different, float), pairs)
    return dict(zip(FIGURES.values(), found.values)), found


def test_figures_are_those_of_plain_formulas_ties_and_all():
    random = np.random.default_rng(1)
    same = random.normal(0.6, 0.2, 300).round(2)
    different = random.normal(0.4, 0.15, 2500).round(2)
    found, _ = measure(same, different)
    truth, values = np.repeat([1, 0], [300, 2500]), np.concatenate([same, different])
    assert found["roc_area"] == pytest.approx(roc_auc_score(truth, values))
    spread = np.sqrt((same.var() + different.var()) / 2)
    assert found["d_prime"] == pytest.approx((same.mean() - different.mean()) / spread)
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    for rate in (0.01, 0.001):
        assert found[f"true_at_{rate:g}"] == true[false <= rate].max()
    grid = np.linspace(0, 1, 200_001)
    crossing = grid[np.abs(np.interp(grid, false, 1 - true) - grid).argmin()]
    assert found["equal_error_rate"] == pytest.approx(crossing, abs=1e-4)


def test_perfect_features_and_useless_ones_have_the_figures_they_must():
    best, _ = measure([1, 1, 0.9], [0, 0.1, 0.2])
    assert (best["roc_area"], best["equal_error_rate"], best["true_at_0.001"]) == (1, 0, 1)
    equal, _ = measure([0.5] * 4, [0.5] * 4)
    assert (equal["roc_area"], equal["equal_error_rate"]) == (0.5, 0.5)
    assert equal["true_at_0.01"] == 0
    assert np.isnan(equal["d_prime"])


def test_intervals_cover_the_truth_as_often_as_they_say_and_tracks_count_not_pairs():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(60):  # two normal densities, sqrt(2) apart: the area is that of 1 above 0
        found = measure(random.normal(2**0.5, 1, 80), random.normal(0, 1, 80))[1]
        low, high = found.interval()[:, 0]
        covered += low < 0.841345 < high
    assert covered >= 52
    # The same pairs ten times over, of the same tracks, say no more.
    same, different = random.normal(1, 1, 40), random.normal(0, 1, 40)
    alone = measure(same, different)[1].interval()[:, 0]
    repeated = np.r_[np.repeat(np.arange(40), 20), np.repeat(np.arange(40, 80), 20)]
    often = measure(np.repeat(same, 10), np.repeat(different, 10), repeated)[1].interval()[:, 0]
    assert np.diff(often) == pytest.approx(np.diff(alone), rel=0.05)


def test_pairs_obey_the_rules():
    pool = walks()
    pairs = find_sure_pairs(pool, max_pairs=200, seed=3)
    assert pairs.exact
    assert len(pairs.same) == len(pairs.different) == 200
    for kind in (pairs.same, pairs.different):
        assert len({frozenset(pair) for pair in kind.tolist()}) == 200
    first, second = pairs.same.T
    assert (pool.tracks[first] == pool.tracks[second]).all()
    # Of 16 of the 20 frames, evenly spread, the median distance is 6.
    assert (pool.frames[second] - pool.frames[first]).min() == 6
    assert np.ptp(np.bincount(pool.tracks[first])) <= 1, "tracks by turns"
    first, second = pairs.different.T
    assert (pool.tracks[first] != pool.tracks[second]).all()
    assert (pool.videos[first] == pool.videos[second]).all()
    assert (pool.frames[first] == pool.frames[second]).all()
    again, other = (find_sure_pairs(pool, 200, seed) for seed in (3, 4))
    assert (again.same == pairs.same).all()
    assert (again.different == pairs.different).all()
    assert not (other.different == pairs.different).all()


def test_where_no_frame_is_shared_tracks_that_overlap_show_two_people():
    pool = walks(step=4, shift=-2)  # begun 1 frame apart and seen every fourth frame
    pairs = find_sure_pairs(pool)
    assert not pairs.exact
    assert "overlap in time" in pairs.describe()
    first, second = pairs.different.T
    assert (pool.videos[first] == pool.videos[second]).all()
    assert (pool.tracks[first] != pool.tracks[second]).all()
    assert np.abs(pool.frames[first] - pool.frames[second]).max() <= 3
    images = pairs.images
    features = np.random.default_rng(0).normal(size=(len(images), 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    places = {place: row for row, place in enumerate(images)}
    same, _ = pairs.similarities(features)
    a, b = pairs.same[7]
    assert same[7] == pytest.approx(features[places[a]] @ features[places[b]], abs=1e-6)


def test_a_pool_without_pairs_is_refused():
    with pytest.raises(UserError, match="no track of the pool has two frames"):
        find_sure_pairs(known([(0, 0, 1), (0, 1, 1)]))
    with pytest.raises(UserError, match="no two tracks of one video"):
        find_sure_pairs(known([(0, 0, 1), (0, 0, 5), (0, 1, 6), (0, 1, 9), (1, 2, 1), (1, 2, 9)]))


def test_what_cameras_and_directions_there_are_in_features():
    random = np.random.default_rng(5)
    tracks, own = np.repeat(np.arange(60), 4), random.normal(size=(60, 8))
    cameras = tracks % 3
    features = own[tracks] + 0.1 * random.normal(size=(240, 8))
    assert camera_share(features, tracks, cameras) < 0.1
    shifted = features + 5 * np.eye(8)[cameras]
    # The variance of the shifts is 25 times 2/3, that of the people 8.
    assert camera_share(shifted, tracks, cameras) == pytest.approx(16.7 / 24.7, abs=0.05)
    assert camera_share(features, tracks, np.zeros(240, int)) is None, "one camera"
    assert effective_rank(np.eye(8).repeat(2, 0)) == pytest.approx(7)
    assert effective_rank(np.outer(np.arange(9), np.ones(4))) == pytest.approx(1)
