"""Parquet shards: written here and read by HuggingFace datasets, and the other way round."""

import multiprocessing
import pickle
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from damage import damaged, outcome
from launch import environment
from transreid_ssl import logs
from transreid_ssl.data import shard_rows, shards
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.loader import open_loader
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.packing import pack
from transreid_ssl.data.shard_rows import CachedRows, RowsInPlace, open_rows
from transreid_ssl.errors import UserError


@pytest.fixture(autouse=True)
def quiet_datasets(caches, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches / "datasets")
    datasets.disable_progress_bars()


def save(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {name: datasets.Image() for name in columns if name == "image"}
        | {name: datasets.Value("string") for name in columns if name != "image"}
    )
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


def test_packed_and_opened_again(tmp_path, write_images):
    pool = open_pool(write_images(tmp_path / "images", [f"{i // 3}/{i}.jpg" for i in range(7)]))
    assert pack(pool, tmp_path / "packed", rows_per_shard=3) == []
    assert len(list((tmp_path / "packed").glob("*.parquet"))) == 3
    again = open_pool(tmp_path / "packed")
    assert list(again.names) == list(pool.names)
    assert again.fingerprint == pool.fingerprint
    again = pickle.loads(pickle.dumps(again))
    assert [again.read(i) for i in range(7)] == [pool.read(i) for i in range(7)]
    files = [str(path) for path in sorted((tmp_path / "packed").glob("*.parquet"))]
    rows = datasets.load_dataset("parquet", data_files=files, split="train")
    assert rows[4]["image"].size == (32, 64)
    assert rows[4]["name"] == pool.names[4]


def test_broken_images_are_left_out_and_listed(tmp_path, write_images, encoded):
    root = write_images(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    (root / "2.jpg").write_bytes(encoded(1)[:-50])
    left_out = pack(open_pool(root), tmp_path / "packed")
    assert left_out == ["2.jpg: truncated JPEG (no end marker)"]
    assert (tmp_path / "packed/left_out.txt").read_text() == left_out[0] + "\n"
    assert list(open_pool(tmp_path / "packed").names) == ["1.jpg", "3.jpg"]
    assert pack(open_pool(root), tmp_path / "one_each", rows_per_shard=1) == left_out
    assert list(open_pool(tmp_path / "one_each").names) == ["1.jpg", "3.jpg"], "one shard is empty"


def test_nothing_is_left_behind_by_a_failed_packing(tmp_path, write_images):
    root = write_images(tmp_path / "images", ["1.jpg"])
    pool = open_pool(root)
    (root / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="not one image can be read"):
        pack(pool, tmp_path / "out/packed")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        pack(pool, tmp_path / "full")
    assert (tmp_path / "full/file").read_text() == "mine"


def test_names_come_from_a_column_or_from_the_row(tmp_path, encoded):
    images = [{"bytes": encoded(i), "path": None} for i in range(3)]
    save(tmp_path / "named/data/0.parquet", image=images, image_path=["x", "y", "z"])
    named = open_pool(tmp_path / "named")
    assert list(named.names) == ["x", "y", "z"]
    assert named.read(2) == encoded(2)
    save(tmp_path / "same/0.parquet", image=images, name=["x", "x", "z"])
    save(tmp_path / "same/1.parquet", image=images[:1], name=["x"])
    rows = open_pool(tmp_path / "same")
    assert list(rows.names) == ["0.parquet:0", "0.parquet:1", "0.parquet:2", "1.parquet:0"]
    assert rows.read(3) == encoded(0)


def test_plain_binary_and_missing_bytes(tmp_path, encoded):
    image = pa.array([encoded(0), None], pa.binary())
    pq.write_table(pa.table({"jpg": image}), tmp_path / "0.parquet")
    pool = open_pool(tmp_path / "0.parquet")
    assert list(pool.names) == ["0.parquet:0", "0.parquet:1"]
    assert pool.read(0) == encoded(0)
    with pytest.raises(CorruptImage, match="no bytes"):
        pool.read(1)


def test_names_come_from_the_paths_within_images(tmp_path, encoded):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": encoded(0), "path": "a.jpg"}, {"bytes": None, "path": "gone.jpg"}]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "0.parquet")
    pool = open_pool(tmp_path)
    assert list(pool.names) == ["a.jpg", "gone.jpg"]
    with pytest.raises(CorruptImage, match="no bytes"):
        pool.read(1)


class Bytes(Dataset):
    """The bytes of a pool's images."""

    def __init__(self, pool):
        self.pool = pool

    def __len__(self):
        return len(self.pool)

    def __getitem__(self, index):
        return self.pool.read(index)


def rows_to_write(encoded):
    """Twelve images, one twice and one without bytes, as a column."""
    images = [encoded(number) for number in range(10)] + [encoded(3), None]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": one, "path": f"{number}.jpg"} for number, one in enumerate(images)]
    return images, pa.table({"image": pa.array(rows, kind)})


PLAIN = {"compression": "none", "use_dictionary": False}


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        (PLAIN | {"data_page_size": 1}, RowsInPlace),  # a page an image, with a header before it
        (PLAIN | {"data_page_version": "2.0"}, RowsInPlace),
        (PLAIN | {"column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}}, CachedRows),
        ({"compression": "zstd", "use_dictionary": False}, CachedRows),
        ({}, CachedRows),
    ],
)
def test_rows_are_read_in_any_order_by_any_process(tmp_path, encoded, monkeypatch, how, rows):
    images, table = rows_to_write(encoded)
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=5, **how)
    pool, decoded = open_pool(tmp_path), []
    assert isinstance(pool._rows, rows)
    read = RowsInPlace._values
    monkeypatch.setattr(
        RowsInPlace, "_values", lambda *given: decoded.append(given[2]) or read(*given)
    )  # fmt: skip
    for index in (7, 2, 10, 0, 6, 1, 9, 5, 3, 8, 4, 7):
        assert pool.read(index) == images[index]
    with pytest.raises(CorruptImage, match="no bytes"):
        pool.read(11)
    assert sorted(decoded) == ([0, 1, 2] if rows is RowsInPlace else [])
    monkeypatch.undo()
    again = pickle.loads(pickle.dumps(pool))
    assert again.read(7) == images[7]
    for pools in (open_pool(tmp_path), pool):  # forks find places, and find those noted before
        forked = open_loader(Bytes(pools), 2, batch_size=None, sampler=[7, 1, 10, 2])
        assert list(forked) == [images[index] for index in (7, 1, 10, 2)]


def test_what_one_fork_has_found_the_others_know(tmp_path, encoded):
    images, table = rows_to_write(encoded)
    pq.write_table(table, tmp_path / "0.parquet", **PLAIN)
    pool = open_pool(tmp_path)
    assert list(open_loader(Bytes(pool), 1, batch_size=None, sampler=[4])) == [images[4]]
    assert pool._rows._places[0] > 0, "found by a process that is gone"
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        assert workers.map(pool.read, [7, 1]) == [images[7], images[1]]


def test_opening_copies_nothing_and_prints_nothing(tmp_path, encoded):
    """In a process of its own, where ``datasets`` has not been imported."""
    pq.write_table(rows_to_write(encoded)[1], tmp_path / "0.parquet", **PLAIN)
    program = (
        "import sys; from transreid_ssl.data.open import open_pool; "
        f"print(len(open_pool({str(tmp_path)!r}).read(0)), 'datasets' in sys.modules)"
    )
    home = {"HOME": str(tmp_path / "home"), "TRANSREID_SSL_CACHE": str(tmp_path / "index")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env=environment() | home,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{len(encoded(0))} False\n", "")
    assert not (tmp_path / "home").exists()


def test_a_shard_that_is_replaced_meanwhile_gives_no_other_image(tmp_path, encoded):
    _, table = rows_to_write(encoded)
    path = tmp_path / "0.parquet"
    pq.write_table(table, path, **PLAIN)
    pool = open_pool(tmp_path)
    pool.read(0)
    for row in (1, 11):
        pq.write_table(table.slice(row), path, **PLAIN)
        with pytest.raises(CorruptImage, match=r"0\.parquet was changed meanwhile"):
            pool.read(row)


CUT = """
import os, sys
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.shard_rows import RowsInPlace

def cut(*given):
    for count, value in enumerate(read(*given)):
        if count == 1:
            os.truncate(sys.argv[1], 1 << 16)
        yield value

read, RowsInPlace._values = RowsInPlace._values, cut
try:
    open_pool(sys.argv[1]).read(5)
except CorruptImage as error:
    print(error)
"""


def test_a_shard_that_is_cut_while_its_places_are_noted(tmp_path):
    """In a process of its own: a file that is mapped into memory would end it here (SIGBUS)."""
    images = [np.random.default_rng(n).bytes(1 << 14) for n in range(400)]
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"image": images}), path, **PLAIN)
    done = subprocess.run(
        [sys.executable, "-c", CUT, path], capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    said = "0.parquet:5: the shard cannot be read (0.parquet was changed meanwhile)\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_a_damaged_page_costs_what_follows_and_is_looked_for_once(tmp_path, encoded, monkeypatch):
    images, table = rows_to_write(encoded)
    path, tried = tmp_path / "0.parquet", []
    pages = {"write_page_checksum": True, "data_page_size": 1, "write_batch_size": 1}
    pq.write_table(table, path, write_statistics=False, **pages, **PLAIN)
    content = path.read_bytes()
    at = content.index(images[4]) + 50
    path.write_bytes(damaged(content, [(at, content[at] ^ 1)]))
    pool, read = open_pool(path), RowsInPlace._values
    monkeypatch.setattr(shard_rows, "_BATCH", 1)
    monkeypatch.setattr(RowsInPlace, "_values", lambda *given: tried.append(1) or read(*given))
    for _ in range(3):
        assert [pool.read(index) for index in range(4)] == images[:4]
        for index in (4, 9):
            with pytest.raises(CorruptImage, match=r"row group 0: .*(?i:checksum|crc)"):
                pool.read(index)
    assert len(tried) == 1
    pool._rows._causes.clear()  # as in another process
    with pytest.raises(CorruptImage, match="row group 0: damaged"):
        pool.read(4)


def test_a_shard_that_is_replaced_while_the_pool_is_opened(tmp_path, encoded, monkeypatch):
    """Else the names would be of the images of before."""
    shard = tmp_path / "pool/1.parquet"

    def write(first):
        images = [{"bytes": encoded(n), "path": f"{n}.jpg"} for n in range(first, first + 4)]
        save(shard, image=images)

    def open_late(*given):
        write(4)
        return open_rows(*given)

    write(0)
    monkeypatch.setattr(shards, "open_rows", open_late)
    with pytest.raises(UserError, match="pool: a shard was written meanwhile: run the same"):
        open_pool(tmp_path / "pool")


def test_a_row_group_of_a_whole_file_is_not_held_in_memory(tmp_path, monkeypatch):
    """As other programs write it."""
    rng = np.random.default_rng(0)
    images = [rng.bytes(1 << 12) for _ in range(6400)]  # 25 MiB
    table = pa.table({"image": images})
    pq.write_table(table, tmp_path / "1.parquet", compression="none", use_dictionary=False)
    del table
    pool, before, held = open_pool(tmp_path), pa.total_allocated_bytes(), []

    def values(self, *given):
        for value in read(self, *given):
            held.append(pa.total_allocated_bytes() - before)
            yield value

    read = RowsInPlace._values
    monkeypatch.setattr(RowsInPlace, "_values", values)
    assert pool.read(6399) == images[-1]
    assert len(held) == 6400
    assert max(held) < 10 << 20


@pytest.mark.parametrize("how", [PLAIN, {}])
def test_a_path_is_no_pattern(tmp_path, encoded, how):
    images, table = rows_to_write(encoded)
    for name in ("crops [1] é", "crops 1 é", "crops *"):
        (tmp_path / name).mkdir()
        pq.write_table(table.slice(1), tmp_path / name / "0.parquet", **how)
    pq.write_table(table, tmp_path / "crops [1] é/0.parquet", **how)
    assert open_pool(tmp_path / "crops [1] é").read(0) == images[0]
    assert open_pool(tmp_path / "crops *").read(0) == images[1]


def test_a_damaged_one_of_compressed_shards_is_not_laid_to_the_first(tmp_path, encoded):
    for number in range(2):
        pq.write_table(rows_to_write(encoded)[1], tmp_path / f"{number}.parquet")
    content = bytearray((tmp_path / "1.parquet").read_bytes())
    content[4:200] = bytes(196)
    (tmp_path / "1.parquet").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}: the shards cannot be opened"):
        open_pool(tmp_path)


def test_compressed_shards_say_where_they_are_decoded_to(tmp_path, encoded, capfd):
    logs.hide()
    pq.write_table(rows_to_write(encoded)[1], tmp_path / "0.parquet")
    pool = open_pool(tmp_path)
    assert "12 images (compressed: decoded once into the cache of `datasets`" in pool.describe()
    assert capfd.readouterr() == ("", "")


def test_decoding_is_said_the_first_time(tmp_path, encoded, caches, capsys, console):
    pq.write_table(rows_to_write(encoded)[1], tmp_path / "0.parquet")
    open_pool(tmp_path)
    said, complaints = capsys.readouterr()
    assert said.startswith(f"{tmp_path / '0.parquet'}: 0 MB are decoded once, into {caches}")
    open_pool(tmp_path)
    assert (complaints, *capsys.readouterr()) == ("", "", "")


def test_who_wants_names_alone_decodes_nothing(tmp_path, encoded, caches, capsys, console):
    images, table = rows_to_write(encoded)
    pq.write_table(table, tmp_path / "0.parquet")
    pool = open_pool(tmp_path, ready=False)
    assert len(pool.names) == 12
    assert capsys.readouterr() == ("", "")
    assert [pool.read(index) for index in range(2)] == images[:2]
    assert f"0 MB are decoded once, into {caches}" in capsys.readouterr().out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    length=st.floats(0.1, 1),
    how=st.sampled_from([{}, PLAIN]),
)
def test_no_damaged_shard_ends_otherwise_than_in_images_or_one_line(
    tmp_path_factory, places, length, how
):
    path = tmp_path_factory.mktemp("shards") / "0.parquet"
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": bytes([i]) * 50, "path": f"{i}.jpg"} for i in range(5)]
    names = pa.array([f"name {i}" for i in range(5)])
    pq.write_table(pa.table({"image": pa.array(rows, kind), "name": names}), path, **how)
    content = damaged(path.read_bytes(), places)
    path.write_bytes(content[: int(length * len(content))])
    pool = outcome(lambda: open_pool(path))
    if not isinstance(pool, UserError):
        for index in range(len(pool)):
            outcome(lambda index=index: read_or_none(pool, index))


def read_or_none(pool, index):
    """The bytes of an image, or None where it is broken."""
    try:
        return pool.read(index)
    except CorruptImage:
        return None


def test_shards_that_differ_and_an_empty_one(tmp_path, encoded):
    images = [{"bytes": encoded(0), "path": None}]
    save(tmp_path / "two/0.parquet", image=images)
    pq.write_table(pa.table({"other": [1]}), tmp_path / "two/1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet: not a readable .* image does not exist"):
        open_pool(tmp_path / "two")
    for number in range(2):
        save(tmp_path / "named" / f"{number}.parquet", image=images, name=[str(number)])
    pq.write_table(pa.table({"name": ["1"]}), tmp_path / "named/1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet: has no column image of images, as 0\.parq"):
        open_pool(tmp_path / "named")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    with pytest.raises(UserError, match="no row in it"):
        open_pool(tmp_path / "none.parquet")
