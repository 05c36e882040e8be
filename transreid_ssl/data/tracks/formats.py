"""What trackers write: the boxes of people, frame by frame, in the usual text formats.

A further format is a function ``(path, stem, size) -> Boxes`` and a line in ``FORMATS``.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transreid_ssl.errors import UserError
from transreid_ssl.reading import read_lines

_LARGEST_FILE = 1 << 30  # bytes: some ten million boxes
_LARGEST_NUMBER = 10**15  # of a frame or a track
_FRAME_COLUMNS = ("frame_index", "frame_number", "frame_id", "frame")
_CSV_COLUMNS = ("x_min", "y_min", "x_max", "y_max", "class_id", "confidence", "tracker_id")


@dataclass(frozen=True, eq=False)
class Boxes:
    """The N boxes that a tracker found in a video, as its file gives them.

    Attributes:
        frames: int64 (N,), counted from ``first``.
        tracks: int64 (N,), -1 for a box of no track.
        boxes: float64 (N, 4): (top, left, height, width) in pixels of the frame; may be NaN.
        scores: float64 (N,): the detector's, NaN where there is none.
        classes: int64 (N,), -1 where there is none.
        ignored: bool (N,): what people who annotated the video say is not to be looked at.
        first: the number of the first frame.
        persons: the classes that are people.
    """

    frames: np.ndarray
    tracks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    first: int
    persons: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.frames)


def read_boxes(path: Path, kind: str | None, stem: str, size: tuple[int, int]) -> Boxes:
    """The boxes in a track file, or in a folder of Ultralytics' label files.

    Args:
        path: the file or the folder.
        kind: a name in ``FORMATS``; None: as the content says.
        stem: the video's name without extension, which label files begin with.
        size: (height, width) of the frames.

    Raises:
        UserError: the file cannot be read, is too large, is of no known format, or has a line that
            is not of its format: that is named.
    """
    return FORMATS[kind or _format_of(path)](path, stem, size)


class _Line(NamedTuple):
    """A line of a track file, and where it stands."""

    path: Path
    number: int
    text: str

    def malformed(self, expected: str) -> UserError:
        """What to raise where something else was expected."""
        place = f"{self.path}: line {self.number}"
        return UserError(f"{place} is not {expected}: {self.text[:80]!r}; correct or remove it")

    def words(self) -> list[str]:
        """What commas or spaces separate."""
        return re.split(r"\s*,\s*|\s+", self.text.strip(" \t,"))

    def floats(self, words: Sequence[str]) -> list[float]:
        """Words of it as numbers, which may be NaN or infinite."""
        try:
            return [float(word) for word in words]
        except ValueError:
            raise self.malformed("all numbers") from None

    def row(
        self, frame: float, track: float, box: Sequence[float], score: float, kind: float
    ) -> tuple[float, ...]:
        """A row for ``_boxes``: frame, track, box, score, class."""
        track, kind = (-1 if math.isnan(value) else value for value in (track, kind))
        for what, value in (("frame", frame), ("track", track), ("class", kind)):
            if not (abs(value) < _LARGEST_NUMBER and value % 1 == 0):
                raise self.malformed(f"a {what} that is a whole number")
        return frame, track, *box, score, kind


def _format_of(path: Path) -> str:
    if path.is_dir():
        return "ultralytics"
    line = next(_lines(path), None)
    if line is None:  # no box at all
        return "mot"
    if "x_min" in line.text:
        return "supervision"
    if re.fullmatch(r"[-+.\deE]+|nan|inf", line.words()[0]):
        return "mot"
    raise line.malformed(
        "of a known track file: numbers (frame,id,left,top,width,height,…) or a header with "
        "x_min,y_min,x_max,y_max,…"
    )


def _read_mot(path: Path, _stem: str, _size: tuple[int, int]) -> Boxes:
    """MOTChallenge's: frame, id, left, top, width, height, confidence, class, visibility.

    BoxMOT writes the same, with the number of a detection at the end. The last three columns of ten
    are places in the world. Commas or spaces separate. What was annotated by hand has 0 and 1 for a
    confidence, and 0 is to be ignored.
    """
    rows, flags = [], []
    for line in _lines(path):
        words = line.words()
        if not 6 <= len(words) <= 10:
            raise line.malformed("frame,id,left,top,width,height[,confidence[,class[,…]]]")
        frame, track, left, top, width, height, *rest = line.floats(words)
        kind = rest[1] if len(rest) in (2, 3) else -1
        score = rest[0] if rest else math.nan
        rows.append(line.row(frame, track, (top, left, height, width), score, kind))
        flags.append(score if len(rest) == 3 else math.nan)
    flags = np.array(flags, np.float64)
    by_hand = (flags == 1).any() and np.isin(flags[~np.isnan(flags)], (0, 1)).all()
    return _boxes(rows, first=1, persons=(1,), ignored=(flags == 0) & by_hand)


def _read_ultralytics(folder: Path, stem: str, size: tuple[int, int]) -> Boxes:
    """Label files ``<video>_<frame>.txt``: class, centre x, y, width, height[, confidence][, id].

    Lengths are shares of the frame's. Of six columns the last is a track if it is a whole number.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder of label files; give the folder labels")
    height, width = size
    rows = []
    for frame, path in sorted(label_files(folder, stem)):
        for line in _lines(path):
            words = line.words()
            if not 5 <= len(words) <= 7:
                raise line.malformed("class x y width height [confidence] [id]")
            kind, x, y, w, h, *rest = line.floats(words)
            track = rest.pop() if rest and (len(rest) == 2 or rest[0].is_integer()) else -1
            box = ((y - h / 2) * height, (x - w / 2) * width, h * height, w * width)
            rows.append(line.row(frame, track, box, rest[0] if rest else math.nan, kind))
    return _boxes(rows, first=1, persons=(0,))


def label_files(folder: Path, stem: str) -> Iterator[tuple[int, Path]]:
    """Frames and label files of a video in a folder of Ultralytics', in no order."""
    name = re.compile(re.escape(stem) + r"_(\d{1,15})\.txt")
    for entry in folder.iterdir() if folder.is_dir() else ():
        if match := name.fullmatch(entry.name):
            yield int(match[1]), entry


def _read_supervision(path: Path, _stem: str, _size: tuple[int, int]) -> Boxes:
    """Roboflow supervision's CSVSink, with the frame in a column of one's own; frames from 0."""
    lines = list(_lines(path))
    table = [_split(line) for line in lines]
    header = table[0] if table else []
    frames = [name for name in _FRAME_COLUMNS if name in header]
    lacking = [name for name in _CSV_COLUMNS if name not in header]
    if lacking or not frames:
        what = ", ".join(lacking) or f"a column of frames ({', '.join(_FRAME_COLUMNS)})"
        raise UserError(f"{path}: lacks {what} in its header; write the file with it")
    places = [header.index(name) for name in (frames[0], *_CSV_COLUMNS)]
    rows = []
    for line, words in zip(lines[1:], table[1:]):
        if len(words) != len(header):
            raise line.malformed(f"of {len(header)} columns as the header")
        chosen = [words[place] for place in places]
        chosen[5:] = [word.strip() or "nan" for word in chosen[5:]]
        frame, left, top, right, bottom, kind, score, track = line.floats(chosen)
        rows.append(line.row(frame, track, (top, left, bottom - top, right - left), score, kind))
    return _boxes(rows, first=0, persons=(0,))


def _split(line: _Line) -> list[str]:
    try:
        return next(csv.reader([line.text]))
    except csv.Error as error:
        raise line.malformed(f"of a CSV file ({error})") from error


FORMATS: dict[str, Callable[[Path, str, tuple[int, int]], Boxes]] = {
    "mot": _read_mot,
    "boxmot": _read_mot,
    "ultralytics": _read_ultralytics,
    "supervision": _read_supervision,
}


def _boxes(
    rows: list[tuple[float, ...]],
    first: int,
    persons: tuple[int, ...],
    ignored: np.ndarray | None = None,
) -> Boxes:
    table = np.array(rows, np.float64).reshape(-1, 8)
    frames, tracks, classes = (table[:, place].astype(np.int64) for place in (0, 1, 7))
    ignored = np.zeros(len(table), bool) if ignored is None else ignored
    return Boxes(frames, tracks, table[:, 2:6], table[:, 6], classes, ignored, first, persons)


def _lines(path: Path) -> Iterator[_Line]:
    """The lines that are not empty."""
    if path.is_file() and os.path.getsize(path) > _LARGEST_FILE:
        raise UserError(f"{path}: larger than {_LARGEST_FILE >> 30} GiB; cut it into parts")
    for number, text in enumerate(read_lines(path), 1):
        if text.strip():
            yield _Line(path, number, text.strip())
