import cv2
import numpy as np
import pytest

from transreid_ssl.data import FilesPool
from transreid_ssl.report.cfs_sheet import draw_cfs_sheet, extreme_rows


def test_rows_are_the_two_ends_and_the_cut():
    scores = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3], np.float32)
    kept = scores > 0.4
    highest, cut, lowest = extreme_rows(scores, kept, count=2)
    assert highest.indices.tolist() == [2, 4]
    assert cut.indices.tolist() == [0, 5]
    assert cut.kept.tolist() == [True, False]
    assert lowest.indices.tolist() == [5, 3]
    assert [len(row.indices) for row in extreme_rows(scores, kept, count=24)] == [5, 5, 5]


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_sheet_is_a_picture(tmp_path, spread):
    names = [f"{i}.png" for i in range(30)]
    for name in names[:-1]:  # the last is missing: it becomes a grey tile
        cv2.imwrite(str(tmp_path / name), np.full((20, 10, 3), 90, np.uint8))
    scores = (0.5 + spread * np.linspace(0, 0.1, 30)).astype(np.float32)
    out = draw_cfs_sheet(
        FilesPool("somewhere", tmp_path, names), scores, np.arange(30) >= 15, tmp_path / "sheet.png"
    )
    picture = cv2.imread(str(out))
    assert picture.shape[1] == 1000
    tile = (picture == (90, 90, 90)).all(axis=2)
    assert tile.sum() > 20_000
