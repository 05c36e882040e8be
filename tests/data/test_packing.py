"""Packing that was stopped goes on, and ends as if it had not been."""

import cv2
import lmdb
import pyarrow.parquet as pq
import pytest

from transreid_ssl.data import CorruptImage, lmdb_pool, open_pool
from transreid_ssl.data.packing import finished, pack
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
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images",
        "packed.unfinished",
        "whole",
    ]
    pool.reads.clear()
    ticks = []
    assert pack(pool, out, 3, lambda: ticks.append(1), kind) == expected
    # The first image of each shard or batch is compared, the broken one is looked at again, and
    # only what was begun or comes after it is read.
    assert set(pool.reads) == {0, 3, 1, 6, 7, 8, 9}
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
    out, begun = tmp_path / "packed", tmp_path / "packed.unfinished/packed"
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
    before = content(tmp_path / "packed.unfinished")
    fewer = SubsetPool(pool, range(9))
    for other, rows, kind in ((pool, 4, "parquet"), (pool, 3, "lmdb"), (fewer, 3, "parquet")):
        with pytest.raises(UserError, match=r"packed\.unfinished: is of other images or settings"):
            pack(other, out, rows, kind=kind)
    assert content(tmp_path / "packed.unfinished") == before


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_other_images_of_the_same_names_are_not_mixed_in(pool, tmp_path, encoded, kind):
    with pytest.raises(KeyboardInterrupt):
        pack(pool, tmp_path / "packed", 3, stop_at(8), kind)
    (tmp_path / "images/0.jpg").write_bytes(encoded(5))
    with pytest.raises(UserError, match=r"packed\.unfinished: was begun with other images of the"):
        pack(pool, tmp_path / "packed", 3, kind=kind)


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_an_image_that_was_repaired_meanwhile_is_taken(pool, tmp_path, encoded, kind):
    with pytest.raises(KeyboardInterrupt):
        pack(pool, tmp_path / "packed", 3, stop_at(8), kind)
    (tmp_path / "images/1.jpg").write_bytes(encoded(1))
    assert pack(pool, tmp_path / "packed", 3, kind=kind) == []
    again = open_pool(tmp_path / "packed")
    assert list(again.names) == list(pool.names)
    assert again.read(1) == encoded(1)


def test_somebody_elses_files_are_left_alone(pool, tmp_path):
    mine = tmp_path / "packed.unfinished/notes"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="not of this command"):
        pack(pool, tmp_path / "packed")
    assert [path.name for path in mine.parent.iterdir()] == ["notes"]
    mine.rename(tmp_path / "notes")
    with pytest.raises(KeyboardInterrupt):
        pack(pool, tmp_path / "packed", 3, stop_at(8))
    (tmp_path / "notes").rename(mine)
    pack(pool, tmp_path / "packed", 3)
    assert [path.name for path in mine.parent.iterdir()] == ["notes"]


def test_a_shortened_database_is_one_line(pool, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pack(pool, tmp_path / "packed", 3, stop_at(8), "lmdb")
    with open(tmp_path / "packed.unfinished/packed/lmdb/data.mdb", "rb+") as database:
        database.truncate(8192)
    with pytest.raises(UserError, match=r"should have .*: remove .*packed\.unfinished"):
        pack(pool, tmp_path / "packed", 3, kind="lmdb")


def test_a_folder_without_a_name_is_refused(pool, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="give the path of a new folder"):
        pack(pool, ".")


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


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_what_the_same_call_has_finished_is_left_alone(pool, tmp_path, kind):
    out = tmp_path / "packed"
    assert finished(pool, out, 3, kind) is None
    left_out = pack(pool, out, 3, kind=kind)
    before, ticks = content(out), []
    assert finished(pool, out, 3, kind) == left_out
    assert pack(pool, out, 3, lambda: ticks.append(1), kind) == left_out
    lmdb_pool._forget_environments()  # the database is open in this process
    assert (content(out), ticks) == (before, [])
    said = "packed: is there already, a pool of 9 images, and not marked as made of these"
    for other, rows in ((SubsetPool(pool, range(5)), 3), (pool, 4)):
        with pytest.raises(UserError, match=said):
            pack(other, out, rows, kind=kind)
    (out / ".finished").unlink()  # as of an older version
    with pytest.raises(UserError, match=said):
        pack(pool, out, 3, kind=kind)


@pytest.mark.parametrize("kind", ["parquet", "lmdb"])
def test_a_finished_pool_that_is_not_what_it_was_is_not_taken_for_it(pool, tmp_path, encoded, kind):
    out, image = tmp_path / "packed", tmp_path / "images/0.jpg"
    pack(pool, out, 3, kind=kind)
    before = image.read_bytes()
    image.write_bytes(encoded(77))
    with pytest.raises(UserError, match=r"packed: was begun with other images .*\(0\.jpg\)"):
        pack(pool, out, 3, kind=kind)
    image.write_bytes(before)
    if kind == "parquet":
        next(out.glob("train-00001-*")).unlink()
        with pytest.raises(UserError, match="packed: holds 6 images of 9: a file in it is gone"):
            finished(pool, out, 3)


def test_a_flipped_bit_in_a_shard_costs_few_images(tmp_path, picture):
    (tmp_path / "images").mkdir()
    noise = [cv2.imencode(".png", picture(n, (160, 160)))[1].tobytes() for n in range(48)]  # 2 MB
    for number, encoded in enumerate(noise):
        (tmp_path / f"images/{number:02}.png").write_bytes(encoded)
    pack(open_pool(tmp_path / "images"), tmp_path / "packed")
    (shard,) = (tmp_path / "packed").glob("*.parquet")
    content = bytearray(shard.read_bytes())
    content[content.index(noise[47]) + 1000] ^= 1
    shard.write_bytes(content)
    packed = open_pool(tmp_path / "packed")
    with pytest.raises(CorruptImage, match="row group 0"):
        packed.read(47)
    assert packed.read(0) == noise[0]
