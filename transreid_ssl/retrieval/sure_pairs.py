"""Pairs of images of which a pool knows, without labels, whether they show one person or two."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transreid_ssl.errors import UserError
from transreid_ssl.words import counted

_OF_TRACK = 16
"""Images of a track that its pairs are made of, evenly spread: 120 pairs at most."""
_PARTNERS = 4
"""People that an image is compared with at most."""
_ENOUGH = 1_000
"""Pairs of different people below which those of one frame are too few: a rate of false matches of
0.001 is one of them."""


@dataclass(frozen=True, eq=False)
class SurePairs:
    """Pairs of places in a pool, each of an earlier and a later image or of two people.

    Attributes:
        same: int64 (S, 2), far frames of one track: of the track's distances the farther half.
        different: int64 (D, 2), images of two tracks of one video that were there at one moment.
        exact: whether two people were always seen in the same frame; else the frames are the
            nearest ones, of tracks that both went on at the first image's moment.
        tracks: int64 (N,), of every image of the pool; numbered from 0.
    """

    same: np.ndarray
    different: np.ndarray
    exact: bool
    tracks: np.ndarray

    @cached_property
    def images(self) -> np.ndarray:
        """The places int64 (M,), in order, of all images in a pair."""
        return np.unique(np.concatenate([self.same, self.different]))

    def similarities(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cosines float64 (S,) and (D,) of the pairs, of unit features (M, D) of ``images``.

        By way of differences: of features that are all but equal, products would be rounded away.
        """
        sides = (features[np.searchsorted(self.images, p)] for p in (self.same, self.different))
        apart = (pair[:, 0] - pair[:, 1] for pair in sides)
        same, different = (1 - np.einsum("pd,pd->p", d, d, dtype=np.float64) / 2 for d in apart)
        return same, different

    def describe(self) -> str:
        """One line for people."""
        moment = "in the same frame" if self.exact else "in tracks that overlap in time"
        tracks = len(np.unique(self.tracks[self.images]))
        return (
            f"{counted(len(self.same), 'pair')} of one person, in far frames of a track, and "
            f"{len(self.different):,} of two people, {moment}: "
            f"{counted(len(self.images), 'image')} of {counted(tracks, 'track')}"
        )


def find_sure_pairs(known: Any, max_pairs: int = 10_000, seed: int = 0) -> SurePairs:
    """At most ``max_pairs`` pairs of each kind, the tracks by turns, so that all count alike.

    The same for the same pool and seed. Time and memory are those of sorting the images.

    Args:
        known: int64 (N,) arrays ``videos``, ``tracks`` and ``frames``, as ``Pool.tracks`` has them.

    Raises:
        UserError: there are no pairs of one person, or none of two.
    """
    random = np.random.default_rng([seed, 41])
    order = np.lexsort([known.frames, known.tracks])
    starts = np.flatnonzero(np.diff(known.tracks[order], prepend=-1))
    members = np.split(order, starts[1:])  # of each track the images, by frame
    same = _same(members, known.frames, max_pairs, random)
    if not len(same):
        raise UserError(
            "no track of the pool has two frames, so that no pair surely shows one person; cut "
            "crops of more frames (`python -m transreid_ssl.data tracks --every 1`)"
        )
    anchors = _by_turns(known.tracks, random)
    different, exact = _of_one_frame(known, anchors, max_pairs, random), True
    if len(different) < min(_ENOUGH, max_pairs):
        wider = _of_overlap(known, members, anchors, max_pairs, random)
        if len(wider) > len(different):
            different, exact = wider, False
    if not len(different):
        raise UserError(
            "no two tracks of one video of the pool overlap in time, so that no pair surely shows "
            "two people; take a pool of busier videos"
        )
    return SurePairs(same, different, exact, known.tracks)


def has_sure_pairs(known: Any) -> bool:
    """Whether ``find_sure_pairs`` finds any in tracks such as it takes."""
    try:
        return bool(find_sure_pairs(known))
    except UserError:
        return False


def _by_turns(tracks: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Places (N,) in an order in which every track comes once before any comes again."""
    shuffled = random.permutation(len(tracks))
    grouped = shuffled[np.argsort(tracks[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(tracks[grouped], prepend=-1))
    sizes = np.diff(starts, append=len(grouped))
    turns = np.arange(len(grouped)) - np.repeat(starts, sizes)
    return grouped[np.lexsort([random.random(len(grouped)), turns])]


def _same(
    members: list[np.ndarray], frames: np.ndarray, most: int, random: np.random.Generator
) -> np.ndarray:
    """Pairs (S, 2) of each track whose frames are at least the median distance apart."""
    long = [track for track in members if len(track) > 1]
    found, owners = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for number in random.permutation(len(long))[:most]:
        track = long[number]
        track = track[np.unique(np.linspace(0, len(track) - 1, _OF_TRACK).astype(int))]
        first, second = (track[places] for places in np.triu_indices(len(track), 1))
        gaps = frames[second] - frames[first]
        far = gaps >= np.median(gaps[gaps > 0]) if gaps.any() else gaps > 0
        found.append(np.stack([first[far], second[far]], 1))
        owners.append(np.full(far.sum(), number))
    pairs = np.concatenate(found)
    return pairs[_by_turns(np.concatenate(owners), random)[:most]]


def _of_one_frame(
    known: Any, anchors: np.ndarray, most: int, random: np.random.Generator
) -> np.ndarray:
    """Pairs (D, 2) of one video and frame and two tracks."""
    order = np.lexsort([known.frames, known.videos])
    moment = np.stack([known.videos[order], known.frames[order]])
    begins = np.r_[True, np.diff(moment).any(0)]
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=len(order))
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(begins) - 1
    several = anchors[sizes[number[anchors]] > 1]

    def others(anchor: int) -> np.ndarray:
        one = number[anchor]
        there = order[starts[one] : starts[one] + sizes[one]]
        return there[known.tracks[there] != known.tracks[anchor]]

    return _collect(several, others, most, random)


def _of_overlap(
    known: Any, members: list[np.ndarray], anchors: np.ndarray, most: int,
    random: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Pairs (D, 2) of an image and the nearest one of a track that goes on at its moment."""
    heads, tails = (np.array([track[end] for track in members]) for end in (0, -1))
    firsts, lasts = known.frames[heads], known.frames[tails]
    names, videos = known.tracks[heads], known.videos[heads]
    of_video = {video: np.flatnonzero(videos == video) for video in np.unique(videos)}

    def others(anchor: int) -> np.ndarray:
        now = known.frames[anchor]
        there = of_video[known.videos[anchor]]
        going_on = (firsts[there] <= now) & (now <= lasts[there])
        there = there[going_on & (names[there] != known.tracks[anchor])]
        there = random.permutation(there)[:_PARTNERS]
        nearest = [np.abs(known.frames[members[one]] - now).argmin() for one in there]
        return np.array([members[one][at] for one, at in zip(there, nearest)], np.int64)

    return _collect(anchors, others, most, random)


def _collect(
    anchors: np.ndarray, others: Callable[[int], np.ndarray], most: int,
    random: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Pairs of the anchors, in turn, with some of their ``others``; no pair comes twice."""
    found: dict[tuple[int, int], None] = {}
    for anchor in anchors:
        for other in random.permutation(others(anchor))[:_PARTNERS]:
            found[min(anchor, other), max(anchor, other)] = None
        if len(found) >= most:
            break
    return np.array(list(found), np.int64).reshape(-1, 2)[:most]
