"""The picture of ranked galleries: every image in its place, in a frame of the right colour."""

import cv2
import numpy as np
import pytest

from transreid_ssl import UserError
from transreid_ssl.report import GalleryRow, galleries, ranked_galleries
from transreid_ssl.report.galleries import RIGHT, WRONG

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10)]


def plain(colour):
    return np.full((20, 10, 3), colour, np.uint8)


def read(path):
    return cv2.imread(str(path))[..., ::-1]


def where(picture, colour):
    """Top, bottom, left and right of the pixels of exactly this colour."""
    rows, columns = np.nonzero((picture == np.array(colour)).all(2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_images_stand_in_order_in_coloured_frames(tmp_path):
    query, first, second, third = map(plain, COLOURS)
    row = GalleryRow("AP 50 %", query, [first, second, third], [True, False, True], [0.1, 0.2, 0.3])
    path = ranked_galleries(tmp_path / "new" / "g.png", [row], "title", "note")
    picture = read(path)
    boxes = [where(picture, colour) for colour in COLOURS]
    assert len({box[:2] for box in boxes}) == 1  # one line
    assert [box[2] for box in boxes] == sorted(box[2] for box in boxes)
    for (top, bottom, left, right), frame in zip(boxes[1:], (RIGHT, WRONG, RIGHT)):
        expected = tuple(bytes.fromhex(frame[1:]))
        middle = (top + bottom) // 2
        assert tuple(picture[middle, left - 2]) == tuple(picture[middle, right + 2]) == expected
        assert tuple(picture[top - 2, left + 3]) == tuple(picture[bottom + 2, left + 3]) == expected


def test_rows_of_different_lengths(tmp_path):
    tile = plain(COLOURS[0])
    rows = [
        GalleryRow("a", tile, [tile] * count, [True] * count, [0.0] * count) for count in (0, 4, 2)
    ]
    one = read(ranked_galleries(tmp_path / "1.png", rows[1:2], "t", "n"))
    three = read(ranked_galleries(tmp_path / "3.png", rows, "t", "n"))
    assert three.shape[1] == one.shape[1]
    assert three.shape[0] > 2 * one.shape[0] - 150


@pytest.mark.parametrize(
    "label",
    ["AP 5 %", "cluster 123,456\n1,234,567 images", "a place, cam1_track00_" * 20, "W" * 300],
)
def test_labels_end_before_the_images_however_long_they_are(tmp_path, label):
    query, other = map(plain, COLOURS[:2])
    row = GalleryRow(label, query, [other], [True], [0.1])
    picture = read(ranked_galleries(tmp_path / "g.png", [row, row], "A long title " * 9, "note"))
    top, bottom, left, _ = where(picture[: picture.shape[0] // 2], COLOURS[0])
    assert (picture[top:bottom, :left] < 128).any(), "the label is there"
    frame = left - 4
    assert (picture[:, frame - 8 : frame] == 255).all(axis=2)[top - 4 : bottom + 4].all()
    labels = (picture[:, : frame - 8] < 128).any(axis=(1, 2))
    assert labels[top:bottom].sum() == labels[top - 20 : bottom + 20].sum(), "beside its own row"
    assert (picture[:, -8:] == 255).all(), "the title ends before the picture does"


def test_captions_are_the_similarities_of_pages_whatever_a_network_makes_of_them(monkeypatch):
    written = []
    monkeypatch.setattr(
        galleries, "_write", lambda figure, x, y, text, **looks: written.append(text)
    )
    tile = plain(COLOURS[0])
    for values in ([0.8, 0.05], [0.9999937, 0.9999704]):
        row = GalleryRow("a", tile, [tile] * 2, [True, False], values)
        galleries._draw_row(None, np.zeros((300, 600, 3), np.uint8), row, (92, 60))
    assert written == ["a", "✓ 0.80", "✗ 0.05", "a", "✓ 0.99999", "✗ 0.99997"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    tile = plain(COLOURS[0])
    with pytest.raises(UserError, match="cannot be written"):
        ranked_galleries(
            tmp_path / "file" / "g.png", [GalleryRow("", tile, [tile], [True], [0])], "", ""
        )
