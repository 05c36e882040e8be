"""What is asked of a selection besides high scores: sharp images, few repeats, fair shares."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from transreid_ssl.cfs.groups import Groups, Kind, by_cluster, by_folder, by_pattern
from transreid_ssl.cfs.order import bounded, in_turns, without_near_duplicates, without_repeats
from transreid_ssl.data.index import Names
from transreid_ssl.errors import UserError

if TYPE_CHECKING:
    from transreid_ssl.data import Pool


@dataclass(frozen=True)
class Diversity:
    """What is asked of a selection besides high scores, in the order in which it is done.

    Tracks are what ``pattern`` finds in the names, or without it what the pool knows of its images.

    Attributes:
        average: "track" gives every image the mean score of its track, before anything else is
            done: whole tracks rank, and within one the image's own score decides.
        drop_blurred: share in [0, 1) of the images that is left out for being the least sharp.
        near_duplicates: cosine in (0, 1] from which on an image that looks like a better one is
            left out, the repeats within a track first; needs ``features``.
        balance: take from each group in turns: "source", the folders that images lie in; "track";
            "cluster", how they look, which needs ``features``.
        max_source: share in (0, 1] that no source has more of.
        pattern: regular expression on names: of tracks, where they are balanced; else of sources,
            which are folders without it.
        features: a file that ``python -m transreid_ssl.embed`` wrote of the same pool.
        clusters: how many "cluster" makes.
    """

    average: Literal["track"] | None = None
    drop_blurred: float = 0.0
    near_duplicates: float | None = None
    balance: Kind | None = None
    max_source: float | None = None
    pattern: str | None = None
    features: str | Path | None = None
    clusters: int = 100

    def __post_init__(self) -> None:
        if self.features is None and (
            self.near_duplicates is not None or self.balance == "cluster"
        ):
            raise UserError(
                "near-duplicates and clusters are told by features: give --features, made with "
                "`python -m transreid_ssl.embed --images POOL --out outputs/embed/features.npy`"
            )
        if self.clusters < 1:
            raise UserError(f"--clusters {self.clusters}: give 1 or more")
        for name in ("near_duplicates", "max_source"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise UserError(f"--{name} {value:g}: give a number above 0 and up to 1")
        if not 0 <= self.drop_blurred < 1:
            raise UserError(f"--drop_blurred {self.drop_blurred:g}: give a share from 0 to below 1")

    def asked(self) -> dict[str, Any]:
        """What is asked for, by name: all that is not as by default."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(Diversity)
            if getattr(self, field.name) != field.default
        }

    def shape(
        self,
        order: np.ndarray,
        names: pa.ChunkedArray,
        pool: "Pool | None",
        seed: int,
        allowed: np.ndarray | None = None,
        tracks: np.ndarray | None = None,
    ) -> np.ndarray:
        """The ``order`` int64 (N,) of all ``names``, without what is left out, and rearranged.

        Args:
            pool: for blur.
            tracks: int64 (N,), by place, as ``tracks`` gives them; None where they are not known.
            seed: of clusters.
            allowed: bool (N,), by place: of those that are not left out, only these; None for all.

        Raises:
            UserError: ``pool`` is needed and not given, ``features`` lack an image, or ``pattern``
                finds nothing in a name; before any image is looked at.
        """
        if self.drop_blurred and pool is None:
            raise UserError("blur is seen in the images: give --pool")
        rows = self.rows(names)
        kinds = [self.balance, "source" if self.max_source is not None else None]
        groups = [
            tracks if kind == "track" else kind and self.groups(kind, names, rows, seed).codes
            for kind in kinds
        ]
        if self.drop_blurred:
            order = self._without_blurred(order, names, pool)
        if self.near_duplicates is not None:
            assert rows is not None  # options are checked
            if tracks is not None:
                order = without_repeats(order, *rows, self.near_duplicates, tracks)
            order = without_near_duplicates(order, *rows, self.near_duplicates, seed)
        if allowed is not None:
            order = order[allowed[order]]
        if self.balance is not None:
            order = in_turns(order, groups[0])
        if self.max_source is not None:
            order = bounded(order, groups[1], self.max_source)
        return order

    def needs_tracks(self) -> bool:
        """Whether there is no selection without tracks."""
        return "track" in (self.balance, self.average)

    def tracks(self, names: pa.ChunkedArray, pool: "Pool | None") -> np.ndarray | None:
        """The track int64 (N,) of each image, or None where neither names nor pool tell it.

        Raises:
            UserError: tracks are needed and not known.
        """
        if self.pattern is not None and self.needs_tracks():
            return by_pattern(names, self.pattern).codes
        if pool is not None and pool.tracks is not None:
            return pool.tracks.tracks[_places(names, pool)]
        if not self.needs_tracks():
            return None
        raise UserError(
            "a track is told by a pool that `python -m transreid_ssl.data tracks` made: give it "
            "with --pool; or by the name of an image: give --pattern, such as "
            r"'\d+_c\d+s\d+' for 0002_c1s1_000451_03.jpg"
        )

    def rows(self, names: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
        """Features (R, D) and the row of each name, int64 (N,); None where none are given."""
        if self.features is None:
            return None
        from transreid_ssl.data.feature_files import read_features

        known, features = read_features(self.features)
        rows = known.find(Names(names.cast(pa.large_string()).combine_chunks()))
        if (rows < 0).any():
            lost = names[int(np.argmax(rows < 0))].as_py()
            raise UserError(f"{self.features}: has no features of {lost}; make them of this pool")
        return features, rows

    def groups(
        self,
        kind: Kind,
        names: pa.ChunkedArray,
        rows: tuple[np.ndarray, np.ndarray] | None = None,
        seed: int = 0,
    ) -> Groups:
        """The groups of a kind that ``names`` are in; ``rows`` for clusters."""
        if kind == "cluster":
            assert rows is not None  # options are checked
            return by_cluster(*rows, self.clusters, seed)
        if self.pattern is None or (kind == "source" and self.needs_tracks()):
            return by_folder(names)
        return by_pattern(names, self.pattern)

    def _without_blurred(
        self, order: np.ndarray, names: pa.ChunkedArray, pool: "Pool"
    ) -> np.ndarray:
        from transreid_ssl.cfs.looks import LOOKS, measure_looks

        sharpness = measure_looks(pool, _places(names, pool)[order])[:, LOOKS.index("sharpness")]
        sharpness = np.nan_to_num(sharpness, nan=-1.0)  # broken since: the first to go
        dropped = np.argsort(sharpness, kind="stable")[: round(self.drop_blurred * len(order))]
        return np.delete(order, dropped)


def _places(names: pa.ChunkedArray, pool: "Pool") -> np.ndarray:
    """The places int64 (N,) of images in a pool."""
    return pool.arrow_names().find(Names(names.cast(pa.large_string()).combine_chunks()))
