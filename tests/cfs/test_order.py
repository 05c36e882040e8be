"""Orders of what is kept: every front of them is fair."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transreid_ssl.cfs.groups import by_cluster, by_folder, by_pattern
from transreid_ssl.cfs.order import (
    averaged,
    bounded,
    in_turns,
    without_near_duplicates,
    without_repeats,
)
from transreid_ssl.errors import UserError

grouped = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(np.array)


def shuffled(groups, seed=0):
    return np.random.default_rng(seed).permutation(len(groups))


@settings(deadline=None)
@given(grouped)
def test_turns_are_fair_at_every_moment_and_lose_nobody(groups):
    order = shuffled(groups)
    found = in_turns(order, groups)
    assert sorted(found) == sorted(order)
    totals = Counter(groups.tolist())
    for front in range(1, len(found) + 1):
        counts = Counter(groups[found[:front]].tolist())
        unfinished = [counts[group] for group in totals if counts[group] < totals[group]]
        assert not unfinished or max(counts.values()) - min(unfinished) <= 1
    for group in totals:  # within a group the order is kept
        assert [p for p in found if groups[p] == group] == [p for p in order if groups[p] == group]


@settings(deadline=None)
@given(grouped, st.floats(0.05, 1))
def test_no_group_is_above_its_bound_at_any_moment(groups, share):
    order = shuffled(groups)
    found = bounded(order, groups, share)
    for front in range(1, len(found) + 1):
        counts = Counter(groups[found[:front]].tolist())
        assert max(counts.values()) <= math.ceil(share * front + 1e-6)
    # Each place goes to the first in order that is allowed there: the rule, written as a slow loop.
    left, expected = order.tolist(), []
    while True:
        allowed = math.ceil(share * (len(expected) + 1) - 1e-6)
        counts = Counter(groups[expected].tolist())
        best = next((place for place in left if counts[groups[place]] < allowed), None)
        if best is None:
            break
        expected.append(best)
        left.remove(best)
    assert found.tolist() == expected


def test_what_looks_like_a_better_one_is_left_out():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 16))
    rows[40:] = rows[:20] + 0.01 * rng.normal(size=(20, 16))
    features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    places = rng.permutation(60)  # the row of each place
    order = rng.permutation(60)
    found = without_near_duplicates(order, features, places, 0.98)
    expected = [
        place for n, place in enumerate(order)
        if all(features[places[place]] @ features[places[other]] < 0.98 for other in order[:n])
    ]  # fmt: skip
    assert found.tolist() == expected
    assert len(found) == 40


def test_near_duplicates_are_found_within_clusters_of_many_images():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 8)) * 5
    rows = centres[rng.integers(6, size=3000)] + rng.normal(size=(3000, 8))
    rows[1500:] = rows[:1500]
    features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = without_near_duplicates(np.arange(3000), features, np.arange(3000), 0.99999)
    assert found.tolist() == list(range(1500))  # equal rows are of one cluster


def test_groups_of_names():
    names = pa.chunked_array([["a/b/0002_c1s1_01.jpg", "a/b/0002_c1s2_02.jpg"], ["c.jpg"]])
    folders = by_folder(names)
    assert [folders.labels[code] for code in folders.codes] == ["a/b", "a/b", ""]
    assert folders.shares(np.array([True, False, True])).tolist() == [0.5, 0.5]
    tracks = by_pattern(names.slice(0, 2), r"(\d+_c\d+s\d+)_")
    assert [tracks.labels[code] for code in tracks.codes] == ["0002_c1s1", "0002_c1s2"]
    assert by_pattern(names.slice(0, 2), r"\d+_c\d").labels == ["0002_c1"]
    with pytest.raises(UserError, match=r"finds nothing in the name 'c\.jpg'"):
        by_pattern(names, "_c")
    with pytest.raises(UserError, match="no regular expression"):
        by_pattern(names, "(")


def test_clusters_are_of_what_looks_alike():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=300)
    features = (np.eye(3)[truth] + 0.05 * rng.normal(size=(300, 3))).astype(np.float32)
    codes = by_cluster(features, np.arange(300), 3).codes
    assert len({(a, b) for a, b in zip(truth.tolist(), codes.tolist())}) == 3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_repeats_within_tracks_are_those_of_slow_loops(data):
    count = data.draw(st.integers(1, 30))
    tracks = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    kinds = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    order = np.array(data.draw(st.permutations(range(count))))
    rows = np.array(data.draw(st.permutations(range(count))))
    features = np.empty((count, 4), np.float32)
    features[rows] = np.eye(4, dtype=np.float32)[kinds]
    found = without_repeats(order, features, rows, 0.9, tracks)
    seen, expected = set(), []
    for place in order:
        if (tracks[place], kinds[place]) not in seen:
            expected.append(place)
        seen.add((tracks[place], kinds[place]))
    assert found.tolist() == expected
    front = without_repeats(order[: count // 2], features, rows, 0.9, tracks)
    assert found[: len(front)].tolist() == front.tolist()


def test_scores_are_averaged_over_groups():
    scores, groups = np.array([1, 2, 6, 5], np.float32), np.array([3, 0, 3, 0])
    assert averaged(scores, groups).tolist() == [3.5, 3.5, 3.5, 3.5]
    assert averaged(scores, np.array([0, 1, 1, 2])).tolist() == [1, 4, 4, 5]
