"""Ranked galleries: what a search shows first, right and wrong."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from transreid_ssl.files import atomic_path
from transreid_ssl.palette import FAINT, INK, RIGHT, WRONG
from transreid_ssl.report.names import decimal, digits, shorten

_QUERY, _INK, _FAINT = INK, INK, FAINT
_TILE = (160, 80)  # height, width of an image on the picture, in pixels
_FRAME, _GAP, _CAPTION = 4, 10, 26
_TOP, _BOTTOM, _AFTER_QUERY = 92, 40, 30
_LABEL = (24, 7)
"""Letters of a line and lines of a label, at most: as high as the image beside it."""
_DPI = 100


@dataclass(frozen=True)
class GalleryRow:
    """One query and its first ranks.

    Attributes:
        label: what to say of the query. It stands beside the images, which begin where the longest
            of all labels ends; long lines are wrapped, and what is too long is cut in the middle.
        query: uint8 (H, W, 3) RGB.
        gallery: K images like it, nearest first.
        correct: K truth values: of the query's identity; None where that is not known.
        similarities: K cosine similarities to the query, as pages tell them.
    """

    label: str
    query: np.ndarray
    gallery: Sequence[np.ndarray]
    correct: Sequence[bool] | None
    similarities: Sequence[float]


def ranked_galleries(
    path: str | Path, rows: Sequence[GalleryRow], title: str, note: str, head: str = "query"
) -> Path:
    """Write a PNG with a line of images for each query: itself, then its nearest gallery images.

    Frames are blue where the identity is right and red where it is wrong, and the captions say it
    again with a tick or a cross, before the similarity. They are grey where it is not known.

    Args:
        path: where to write, atomically.
        rows: at least one; rows may be of different lengths.
        title: the first line; ``note`` stands small under it: what the images are.
        head: what stands above the first image of the lines.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [replace(row, label=_wrapped(row.label)) for row in rows]
    legend = _legend(any(row.correct is not None for row in rows), head)
    longest = max(len(row.gallery) for row in rows)
    left = 2 * (_GAP + _FRAME) + round(max(_width(row.label, 9) for row in rows))
    height = _TOP + len(rows) * _row_height() + _BOTTOM
    width = _GAP + round(max(
        _column_left(left, longest), _GAP + _width(title, 13, "bold"), _GAP + _width(note, 9),
        left + sum(_width(text, 9) + _LEGEND_GAP for text, _ in legend),
    ))  # fmt: skip
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    _write(figure, _GAP + _FRAME, 32, title, size=13, weight="bold")
    _write(figure, _GAP + _FRAME, 54, note, size=9, colour=_FAINT)
    _write(figure, left + _TILE[1] / 2, _TOP - 12, head, size=9, align="center")
    for number in range(1, longest + 1):
        centre = _column_left(left, number - 1) + _TILE[1] / 2
        _write(figure, centre, _TOP - 12, str(number), size=9, colour=_FAINT, align="center")
    for position, row in enumerate(rows):
        _draw_row(figure, canvas, row, (_TOP + position * _row_height(), left))
    _write_legend(figure, (height - 16, left), legend)
    figure.figimage(canvas, zorder=-1)  # under the text, pixel by pixel
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)
    return Path(path)


def _draw_row(figure: Figure, canvas: np.ndarray, row: GalleryRow, place: tuple[int, int]) -> None:
    """The label of a row and its images, the first of which begins at ``place`` (top, left)."""
    top, first = place
    _write(figure, _GAP + _FRAME, top + _TILE[0] / 2, row.label, size=9)
    _draw_tile(canvas, row.query, top, first, _QUERY)
    known = [None] * len(row.gallery) if row.correct is None else row.correct
    places = digits(row.similarities)
    for rank, (image, right, alike) in enumerate(zip(row.gallery, known, row.similarities)):
        colour, mark = (_FAINT, "") if right is None else (RIGHT, "✓ ") if right else (WRONG, "✗ ")
        left = _column_left(first, rank)
        _draw_tile(canvas, image, top, left, colour)
        caption = f"{mark}{decimal(alike, places)}"
        below = top + _TILE[0] + _FRAME + 13
        _write(figure, left + _TILE[1] / 2, below, caption, size=9, colour=colour, align="center")


def _wrapped(label: str) -> str:
    """A label in lines that are as high together as an image at most."""
    letters, most = _LABEL
    room = letters * (most - label.count("\n") - 1)
    lines = (textwrap.wrap(shorten(line, room), letters) for line in label.split("\n"))
    return "\n".join(part for parts in lines for part in parts)


def _draw_tile(canvas: np.ndarray, image: np.ndarray, top: int, left: int, colour: str) -> None:
    height, width = _TILE
    frame = canvas[top - _FRAME : top + height + _FRAME, left - _FRAME : left + width + _FRAME]
    frame[:] = tuple(bytes.fromhex(colour[1:]))
    shrinks = image.shape[0] > height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    frame[_FRAME:-_FRAME, _FRAME:-_FRAME] = cv2.resize(image, (width, height), interpolation=method)


_LEGEND_GAP = 24  # pixels


def _legend(judged: bool, head: str) -> list[tuple[str, str]]:
    """What stands below the images, and in which colours."""
    marks = [("✓ the same person", RIGHT), ("✗ another person", WRONG)] if judged else []
    note = f"under each image: its cosine similarity to the {head}; 1 is equality"
    return [*marks, (note, _FAINT)]


def _write_legend(
    figure: Figure, place: tuple[float, float], legend: Sequence[tuple[str, str]]
) -> None:
    """One text after the other, from ``place`` (pixels from the top and from the left)."""
    y, x = place
    for text, colour in legend:
        _write(figure, x, y, text, size=9, colour=colour)
        x += _width(text, 9) + _LEGEND_GAP


def _width(text: str, size: float, weight: str = "normal") -> float:
    """How wide ``text`` is, in pixels."""
    figure = Figure(dpi=_DPI)
    drawn = figure.text(0, 0, text, size=size, weight=weight, parse_math=False)
    return drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width


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
    looks = {"size": size, "color": colour, "weight": weight, "parse_math": False}
    figure.text(x / width, 1 - y / height, text, **looks, **place)


def _column_left(left: int, rank: int) -> int:
    """Where the image at ``rank`` (from 0) begins; the query stands at ``left``, a little apart."""
    return left + _TILE[1] + _AFTER_QUERY + rank * (_TILE[1] + 2 * _FRAME + _GAP)


def _row_height() -> int:
    return _TILE[0] + 2 * _FRAME + _CAPTION
