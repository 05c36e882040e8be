"""What tells, unread, that images were written anew under their names."""

import os

import numpy as np
import pytest

from transreid_ssl.data import ConcatPool, SubsetPool, open_pool
from transreid_ssl.data.packing import pack


@pytest.fixture
def folder(tmp_path, write_images):
    """Six images that were written at seconds 0 to 5."""
    root = write_images(tmp_path / "images", [f"{number}.jpg" for number in range(6)])
    for number in range(6):
        os.utime(root / f"{number}.jpg", (number, number))
    return root


def test_of_files(folder):
    pool = open_pool(folder)
    sizes = [len(pool.read(index)) for index in range(6)]
    times = 1_000_000_000 * np.arange(6)
    assert pool.stamps(range(6)).tolist() == np.stack([times, sizes], 1).tolist()
    (folder / "2.jpg").unlink()
    assert pool.stamps([2, 3]).tolist() == [[0, 0], [times[3], sizes[3]]]


def test_of_pools_of_pools(folder):
    pool = open_pool(folder)
    whole = pool.stamps(range(6))
    part = SubsetPool(pool, np.array([4, 1, 3]))
    np.testing.assert_array_equal(part.stamps([0, 2]), whole[[4, 3]])
    both = ConcatPool([part, pool], ["a", "b"])
    np.testing.assert_array_equal(both.stamps([8, 1, 3, 2]), whole[[5, 1, 0, 3]])
    assert both.stamps([]).shape == pool.stamps([]).shape == (0, 2)


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_of_the_file_that_holds_an_image(folder, tmp_path, kind):
    pack(open_pool(folder), tmp_path / "packed", rows_per_shard=4, kind=kind)
    pool = open_pool(tmp_path / "packed")
    before = pool.stamps(range(6))
    held = sorted(
        tmp_path.glob("packed/**/*.parquet" if kind == "parquet" else "packed/**/data.mdb")
    )
    os.utime(held[-1], (7, 7))
    changed = (pool.stamps(range(6)) != before).any(1)
    assert changed.tolist() == [kind == "lmdb"] * 3 + [True] * 3
    np.testing.assert_array_equal(pool.stamps([5]), [[7_000_000_000, held[-1].stat().st_size]])
    assert pool.stamps([]).shape == (0, 2)


def test_nothing_of_what_is_drawn():
    assert not open_pool("demo:identities=2,images=4").stamps(range(8)).any()
