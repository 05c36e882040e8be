"""Ranked galleries: what a search shows first, right and wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from transreid_ssl.files import atomic_path
from transreid_ssl.palette import FAINT, INK, RIGHT, WRONG

_QUERY, _INK, _FAINT = INK, INK, FAINT
_TILE = (160, 80)  # height, width of an image on the picture, in pixels
_FRAME, _GAP, _CAPTION = 4, 10, 26
_LEFT, _TOP, _BOTTOM, _AFTER_QUERY = 84, 92, 40, 30
_DPI = 100


@dataclass(frozen=True)
class GalleryRow:
    """One query and its first ranks.

    Attributes:
        label: what to say of the query, in one or two short lines.
        query: uint8 (H, W, 3) RGB.
        gallery: K images like it, nearest first.
        correct: K truth values: of the query's identity; None where that is not known.
        distances: K distances.
    """

    label: str
    query: np.ndarray
    gallery: Sequence[np.ndarray]
    correct: Sequence[bool] | None
    distances: Sequence[float]


def ranked_galleries(
    path: str | Path, rows: Sequence[GalleryRow], title: str, note: str, head: str = "query"
) -> Path:
    """Write a PNG with a line of images for each query: itself, then its nearest gallery images.

    Frames are blue where the identity is right and red where it is wrong, and the captions say it
    again with a tick or a cross, before the distance. They are grey where it is not known.

    Args:
        path: where to write, atomically.
        rows: at least one; rows may be of different lengths.
        title: the first line; ``note`` stands small under it: what the images are.
        head: what stands above the first image of the lines.

    Raises:
        UserError: the file cannot be written.
    """
    longest = max(len(row.gallery) for row in rows)
    height = _TOP + len(rows) * _row_height() + _BOTTOM
    width = _column_left(longest) + _GAP
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    _write(figure, _GAP + _FRAME, 32, title, size=13, weight="bold")
    _write(figure, _GAP + _FRAME, 54, note, size=9, colour=_FAINT)
    for number in range(1, longest + 1):
        centre = _column_left(number - 1) + _TILE[1] / 2
        _write(figure, centre, _TOP - 12, str(number), size=9, colour=_FAINT, align="center")
    _write(figure, _LEFT + _TILE[1] / 2, _TOP - 12, head, size=9, align="center")
    unit = distance_unit([distance for row in rows for distance in row.distances])
    for position, row in enumerate(rows):
        _draw_row(figure, canvas, row, _TOP + position * _row_height(), unit)
    _write_legend(figure, height - 16, unit, any(row.correct is not None for row in rows), head)
    figure.figimage(canvas, zorder=-1)  # under the text, pixel by pixel
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return Path(path)


def _draw_row(figure: Figure, canvas: np.ndarray, row: GalleryRow, top: int, unit: float) -> None:
    _write(figure, _GAP + _FRAME, top + _TILE[0] / 2, row.label, size=9)
    _draw_tile(canvas, row.query, top, _LEFT, _QUERY)
    known = [None] * len(row.gallery) if row.correct is None else row.correct
    for rank, (image, right, distance) in enumerate(zip(row.gallery, known, row.distances)):
        colour, mark = (_FAINT, "") if right is None else (RIGHT, "✓ ") if right else (WRONG, "✗ ")
        left = _column_left(rank)
        _draw_tile(canvas, image, top, left, colour)
        caption = f"{mark}{max(0.0, distance) / unit:.1f}"  # rounding may leave less than 0
        below = top + _TILE[0] + _FRAME + 13
        _write(figure, left + _TILE[1] / 2, below, caption, size=9, colour=colour, align="center")


def distance_unit(distances: Sequence[float]) -> float:
    """The power of ten in which these distances have one to three digits before the point.

    Networks differ: the cosine distances of one lie near 1, all of another's below 0.0001.
    """
    largest = max(distances, default=0.0)
    return 1.0 if largest <= 0 else 10.0 ** (math.floor(math.log10(largest)) - 2)


def _draw_tile(canvas: np.ndarray, image: np.ndarray, top: int, left: int, colour: str) -> None:
    height, width = _TILE
    frame = canvas[top - _FRAME : top + height + _FRAME, left - _FRAME : left + width + _FRAME]
    frame[:] = tuple(bytes.fromhex(colour[1:]))
    shrinks = image.shape[0] > height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    frame[_FRAME:-_FRAME, _FRAME:-_FRAME] = cv2.resize(image, (width, height), interpolation=method)


def _write_legend(figure: Figure, y: float, unit: float, judged: bool, head: str) -> None:
    left = _LEFT
    if judged:
        _write(figure, left, y, "✓ the same person", size=9, colour=RIGHT)
        _write(figure, left + 150, y, "✗ another person", size=9, colour=WRONG)
        left += 290
    note = f"under each image: its distance to the {head}, in units of {unit:g}"
    _write(figure, left, y, note, 9, _FAINT)


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = _INK,
    weight: str = "normal",
    align: str = "left",
) -> None:
    """``text`` with its middle at ``y`` pixels from the top and ``x`` from the left."""
    width, height = figure.get_size_inches() * _DPI
    place = {"ha": align, "va": "center", "linespacing": 1.5}
    figure.text(x / width, 1 - y / height, text, size=size, color=colour, weight=weight, **place)


def _column_left(rank: int) -> int:
    """Where the image at ``rank`` (from 0) begins; the query stands a little apart."""
    first = _LEFT + _TILE[1] + _AFTER_QUERY
    return first + rank * (_TILE[1] + 2 * _FRAME + _GAP)


def _row_height() -> int:
    return _TILE[0] + 2 * _FRAME + _CAPTION
