"""Negatives that are certain: two tracks of one video that go on at one moment are two people."""

import numpy as np
import torch
from torch import Tensor, nn

from transreid_ssl.data.track_columns import Tracks
from transreid_ssl.errors import UserError
from transreid_ssl.words import part_of


class Moments(nn.Module):
    """How much each key counts as a negative, by whether its person was seen beside the query's.

    A key of another track may still be of the same person, whom the tracker had lost or another
    camera has seen. A key of the same video whose track overlaps with the query's in time is not.
    Such keys are also the hard ones: place and light are the query's. Each counts as ``weight``
    others do. Nothing of this is learnt or saved: it is read off the pool.

    Args:
        tracks: Of the images of the pool.
        weight: How many times a key of the same moment counts; 1: as any other.

    Raises:
        UserError: no two tracks of the pool overlap.
    """

    videos: Tensor
    """int64 (T,): the video of each track."""
    firsts: Tensor
    """int64 (T,): its first frame."""
    lasts: Tensor
    """int64 (T,): its last frame."""
    log_weight: Tensor
    """float32 0-d: what is added to the logit of a key of the same moment."""

    def __init__(self, tracks: Tracks, weight: float) -> None:
        super().__init__()
        videos, firsts, lasts = tracks.spans()
        self._accompanied = int(_accompanied(videos, firsts, lasts).sum())
        if not self._accompanied:
            raise UserError(
                "--views.certain_negatives: no two tracks of one video of the pool overlap in "
                "time, so that no two people are certain; leave it out, or give busier videos"
            )
        for name, values in {"videos": videos, "firsts": firsts, "lasts": lasts}.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.register_buffer("log_weight", torch.tensor(weight).log(), persistent=False)

    def forward(self, tracks: Tensor, key_tracks: Tensor) -> Tensor:
        """What is added to the logits of keys, float32 (B, K).

        Args:
            tracks: Of the queries, int64 (B,).
            key_tracks: Of the keys, int64 (K,), -1 where not known.
        """
        known = key_tracks.clamp_min(0)
        together = (
            (self.videos[tracks, None] == self.videos[known])
            & (self.firsts[tracks, None] <= self.lasts[known])
            & (self.firsts[known] <= self.lasts[tracks, None])
            & (tracks[:, None] != key_tracks)
            & (key_tracks >= 0)
        )
        return torch.where(together, self.log_weight, 0.0)

    def describe(self) -> str:
        """One line for people: how many tracks have certain negatives."""
        some, verb = int(self._accompanied), "overlaps/overlap"
        return (
            f"{part_of(some, len(self.videos), 'track', verb=verb)} in time with another of the "
            "same video: as negatives of each other these count "
            f"{self.log_weight.exp():g} times"
        )


def _accompanied(videos: np.ndarray, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """Which tracks, bool (T,), overlap in time with another of their video."""
    found = np.zeros(len(videos), bool)
    order = np.lexsort([firsts, videos])
    starts = np.flatnonzero(np.diff(videos[order], prepend=-1))
    for video in np.split(order, starts[1:]):
        ended = np.maximum.accumulate(lasts[video])  # the latest end of all that began before
        found[video[1:]] |= firsts[video[1:]] <= ended[:-1]
        found[video[:-1]] |= firsts[video[1:]] <= lasts[video[:-1]]  # the next to begin is in time
    return found
