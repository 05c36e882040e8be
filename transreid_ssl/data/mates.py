"""Another image of the same track: the same person, seen at another moment."""

import numpy as np

from transreid_ssl.data.track_columns import Tracks
from transreid_ssl.words import part_of


class Mates:
    """Draws for an image of a pool another one of its track, far from it in time.

    The mate is one of the farther half of the track's other images, each as likely. Neighbours in
    time, which differ little, thus never come where there are others, and a frame after a long gap
    comes no more often than the rest, as it would if likelihood grew with the distance.

    Args:
        tracks: Of the N images of the pool.
    """

    tracks: np.ndarray

    def __init__(self, tracks: Tracks) -> None:
        self.tracks, self._frames = tracks.tracks, tracks.frames
        self._by_track = np.argsort(tracks.tracks, kind="stable")
        self._lengths = np.bincount(tracks.tracks)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def draw(self, index: int, rng: np.random.Generator) -> int:
        """The index of a mate; ``index`` itself where the image is alone in its track."""
        track = self.tracks[index]
        start, length = self._starts[track], self._lengths[track]
        if length == 1:
            return index
        members = self._by_track[start : start + length]
        others = members[members != index]
        distances = np.abs(self._frames[others] - self._frames[index])
        middle = np.sort(distances)[(len(others) - 1) // 2]  # of two others both may come
        far = others[distances >= middle]
        return int(far[rng.integers(len(far))])

    def describe(self) -> str:
        """One line for people: how many images have a mate."""
        paired = int(self._lengths[self._lengths > 1].sum())
        return (
            f"{part_of(paired, len(self.tracks), 'image', verb='has/have')} a mate, another frame "
            "of the track, which every second view is cut from"
        )
