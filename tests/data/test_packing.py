"""Packing that was stopped goes on, and ends as if it had not been."""

import lmdb
import pyarrow.parquet as pq
import pytest

from transreid_ssl.data import lmdb_pool, open_pool
from transreid_ssl.data.packing import pack
from transreid_ssl.data.subset import SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.files import continued_folder


class Counting(SubsetPool):
    """Remembers which images were read."""

    def __init__(self, pool):
        super().__init__(pool, range(len(pool)))
        self.reads = []

    def read(self, index):
        self.reads.append(index)
        return super().read(index)


@pytest.fixture
def pool(tmp_path, write_images, encoded, monkeypatch):
    """Ten images, the second of which is broken; an LMDB gets three of them at a time."""
    monkeypatch.setattr(lmdb_pool, "_BATCH", 3)
    root = write_images(tmp_path / "images", [f"{i}.jpg" for i in range(10)])
    (root / "1.jpg").write_bytes(encoded(1)[:-50])
    return Counting(open_pool(root))


def stop_at(count):
    """A progress bar that is interrupted at so many images."""
    steps = iter(range(1, count))

    def tick():
        if next(steps, None) is None:
            raise KeyboardInterrupt

    return tick


def content(folder):
    """What the packed files hold, by their names."""
    found = {}
    for path in folder.rglob("*"):
        if path.name == "data.mdb":
            with (
                lmdb.open(str(path.parent), readonly=True, lock=False) as environment,
                environment.begin() as transaction,
            ):
                found["data.mdb"] = list(transaction.cursor())
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_stopped_packing_goes_on_where_it_was(pool, tmp_path, kind):
    whole, out = tmp_path / "whole", tmp_path / "packed"
    expected = pack(pool, whole, 3, kind=kind)
    assert expected == ["1.jpg: truncated JPEG (no end marker)"]
    with pytest.raises(KeyboardInterrupt):
        pack(pool, out, 3, stop_at(8), kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed.parts", "whole"]
    pool.reads.clear()
    ticks = []
    assert pack(pool, out, 3, lambda: ticks.append(1), kind) == expected
    # Only the shard or batch that was begun is read again; why the second was left out is in its
    # shard, and the LMDB has no place for it.
    assert set(pool.reads) == {6, 7, 8, 9} | ({1} if kind == "lmdb" else set())
    assert len(ticks) == 10
    assert content(out) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed", "whole"]


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_a_stop_before_anything_is_done_leaves_nothing_to_trip_over(pool, tmp_path, kind):
    with pytest.raises(KeyboardInterrupt):
        pack(pool, tmp_path / "packed", 3, stop_at(1), kind)
    pack(pool, tmp_path / "packed", 3, kind=kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "packed"]


def test_a_damaged_shard_is_made_again(pool, tmp_path):
    out, begun = tmp_path / "packed", tmp_path / "packed.parts/packed"
    pack(pool, tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        pack(pool, out, 3, stop_at(8))
    shard = sorted(begun.iterdir())[0]
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 1  # within an image
    shard.write_bytes(damaged)
    assert pq.read_table(shard).num_rows == 2, "Arrow does not mind"
    pack(pool, out, 3)
    assert content(out) == content(tmp_path / "whole")


def test_what_was_begun_otherwise_is_not_mixed(pool, tmp_path):
    out = tmp_path / "packed"
    with pytest.raises(KeyboardInterrupt):
        pack(pool, out, 3, stop_at(8))
    before = content(tmp_path / "packed.parts")
    for other, rows, kind in ((pool, 4, "parquet"), (pool, 3, "lmdb"), (pool.pool, 2, "parquet")):
        with pytest.raises(UserError, match=r"packed\.parts: is of other images or settings"):
            pack(other, out, rows, kind=kind)
    assert content(tmp_path / "packed.parts") == before


def test_somebody_elses_folder_is_left_alone(pool, tmp_path):
    (tmp_path / "packed.parts").mkdir()
    (tmp_path / "packed.parts/notes").write_text("mine")
    with pytest.raises(UserError, match="not of this command"):
        pack(pool, tmp_path / "packed")
    assert (tmp_path / "packed.parts/notes").read_text() == "mine"


def test_two_at_once_on_one_folder(tmp_path):
    with continued_folder(tmp_path / "packed", "key") as folder:
        (folder / "shard").write_text("half")
        with (
            pytest.raises(UserError, match="another process is writing"),
            continued_folder(tmp_path / "packed", "key"),
        ):
            pass
        assert (folder / "shard").read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
