"""Parquet shards: written here and read by HuggingFace datasets, and the other way round."""

import pickle

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import damaged, outcome
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.packing import pack
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
    assert len(list((tmp_path / "packed").iterdir())) == 3
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


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    length=st.floats(0.1, 1),
)
def test_no_damaged_shard_ends_otherwise_than_in_images_or_one_line(
    tmp_path_factory, places, length
):
    path = tmp_path_factory.mktemp("shards") / "0.parquet"
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": bytes([i]) * 50, "path": f"{i}.jpg"} for i in range(5)]
    names = pa.array([f"name {i}" for i in range(5)])
    pq.write_table(pa.table({"image": pa.array(rows, kind), "name": names}), path)
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
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    with pytest.raises(UserError, match="no row in it"):
        open_pool(tmp_path / "none.parquet")
