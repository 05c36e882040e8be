"""Whether pools hold the same images, by their names and bytes and not by where they lie."""

import numpy as np
import pytest

from transreid_ssl.data import ConcatPool, FilesPool, SubsetPool, shared_images


def pool(folder, names, mark=""):
    """Files that each hold their own name and a mark."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.name} {path.parent.name}{mark}")
    return FilesPool(str(folder), folder, names)


NAMES = [f"{person}/{number:02d}.jpg" for person in "abcd" for number in range(5)]


def test_copies_and_parts_are_the_same_images(tmp_path):
    whole, copy = pool(tmp_path / "one", NAMES), pool(tmp_path / "two", NAMES[::2])
    assert shared_images(copy, whole) == 1
    assert shared_images(whole, copy) == pytest.approx(0.5)
    assert shared_images(SubsetPool(whole, np.array([3])), copy) == 0


def test_folders_before_a_name_are_none_of_it(tmp_path):
    below, above = (
        pool(tmp_path / "one", NAMES),
        FilesPool("", tmp_path, [f"one/{n}" for n in NAMES]),
    )
    assert shared_images(below, above) == shared_images(above, below) == 1
    joined = ConcatPool([below, pool(tmp_path / "other", ["x.jpg"])], ["crops", "more"])
    assert shared_images(joined, below) == pytest.approx(20 / 21)
    assert shared_images(below, joined) == 1


def test_equal_names_alone_are_not_the_same_images(tmp_path):
    assert shared_images(pool(tmp_path / "a", NAMES), pool(tmp_path / "b", NAMES, "else")) == 0
    gone = FilesPool("gone", tmp_path / "gone", NAMES)
    assert shared_images(gone, pool(tmp_path / "a", NAMES)) == 0
