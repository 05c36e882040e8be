"""What may be known of a crop beside its bytes: the camera, the track and the frame it is of."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transreid_ssl.words import counted

COLUMNS = pa.schema(
    [
        ("camera", pa.string()),
        ("video", pa.string()),
        ("track", pa.string()),
        ("frame", pa.int64()),
        ("time", pa.float64()),
        ("box", pa.list_(pa.float32(), 4)),
        ("score", pa.float32()),
    ]
)
"""In Parquet shards, beside ``image`` and ``name``. A track is named after its video, so that names
stay unique where pools are joined; ``frame`` counts within the video, as its track file does;
``time`` is in seconds from its first frame; ``box`` is (top, left, height, width) in pixels of the
frame, before any margin; ``score`` is the detector's. The last three may be null."""
TEXTS = ["camera", "video", "track"]
"""Columns of names that repeat: dictionaries in memory."""


@dataclass(frozen=True, eq=False)
class Tracks:
    """Where N crops are from, int64 (N,) each; cameras, videos and tracks are numbered from 0.

    A track is of one video and a video of one camera. Two crops were seen at one moment if their
    ``videos`` and ``frames`` are equal; ``frames`` may be subtracted within a video.
    """

    cameras: np.ndarray
    videos: np.ndarray
    tracks: np.ndarray
    frames: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Tracks":
        """Those of a table with ``COLUMNS``, numbered in the order of their names."""
        cameras, videos, tracks = (_numbered(table.column(name)) for name in TEXTS)
        return cls(cameras, videos, tracks, table.column("frame").to_numpy())

    def spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each track its video, its first and its last frame, int64 (T,) each."""
        order = np.lexsort([self.frames, self.tracks])
        starts = np.flatnonzero(np.diff(self.tracks[order], prepend=-1))
        firsts, lasts = order[starts], order[np.append(starts[1:], len(order)) - 1]
        return self.videos[firsts], self.frames[firsts], self.frames[lasts]

    def describe(self) -> str:
        """One line for people: how many cameras, videos and tracks, and how long these are."""
        lengths = np.bincount(self.tracks)
        return (
            f"{counted(_number(self.cameras), 'camera')}, "
            f"{counted(_number(self.videos), 'video')}, {counted(len(lengths), 'track')} of "
            f"{lengths.min():,} to {counted(lengths.max(), 'image')} (median "
            f"{np.median(lengths):,.0f})"
        )


def _numbered(column: pa.ChunkedArray) -> np.ndarray:
    """The rank int64 (N,) of each entry's text among those in a column of a dictionary type."""
    entries = column.combine_chunks()
    used, places = np.unique(entries.indices.to_numpy(), return_inverse=True)
    texts = np.array(entries.dictionary.take(pa.array(used)).to_pylist(), object)
    return np.argsort(np.argsort(texts))[places]


def _number(codes: np.ndarray) -> int:
    return int(codes.max(initial=-1)) + 1


def make_table(**columns: object) -> pa.Table:
    """A table with ``COLUMNS``, of arrays or lists of N entries; NaN becomes null.

    ``box`` is float (N, 4). What may be null may be left out as a whole.
    """
    count = len(columns["frame"])
    arrays = []
    for field in COLUMNS:
        values = columns.get(field.name)
        if values is None:
            array = pa.nulls(count, field.type)
        elif field.name == "box":
            flat = pa.array(np.asarray(values, np.float32).ravel())
            array = pa.FixedSizeListArray.from_arrays(flat, 4)
        elif field.name in TEXTS:
            array = pa.array(values, field.type).dictionary_encode()
        else:
            array = pa.array(np.asarray(values), field.type, from_pandas=True)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, COLUMNS.names)
