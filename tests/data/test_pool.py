"""Pools of files: what is found, what is remembered, what is complained about."""

import os
import pickle
import socket
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import damaged, outcome
from transreid_ssl.data import folder as folder_module
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.index import Names, cached_names
from transreid_ssl.data.lists import read_names
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.pool import ConcatPool, SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.files import fingerprint


def age(root, seconds=100):
    """Set every folder's time stamp back, as if nothing had changed lately."""
    then = time.time() - seconds
    for path, _, _ in os.walk(root):
        os.utime(path, (then, then))


def test_folder_tree(tmp_path, write_images, encoded):
    names = ["b/2.jpg", "a/x/1.JPEG", "z.png", "a/0.jpg"]
    write_images(tmp_path, names)
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "a/._0.jpg").write_bytes(b"x")
    pool = open_pool(tmp_path)
    assert list(pool.names) == sorted(names)
    assert pool.read(list(pool.names).index("z.png")) == encoded(2)
    assert pool.describe() == f"folder {tmp_path}: 4 images"
    assert pool.fingerprint == fingerprint(sorted(names))
    again = pickle.loads(pickle.dumps(pool))
    assert list(again.names) == sorted(names)
    assert again.read(0) == pool.read(0)


def test_links_are_followed_once(tmp_path, write_images):
    write_images(tmp_path, ["real/1.jpg"])
    (tmp_path / "real/loop").symlink_to(tmp_path)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path / "real")
    assert list(open_pool(tmp_path / "root").names) == ["linked/1.jpg"]


def test_the_index_is_reused_until_a_folder_changes(tmp_path, write_images, monkeypatch):
    write_images(tmp_path, ["a/1.jpg", "a/2.jpg"])
    age(tmp_path)
    listings = []
    listing = folder_module._list_folder
    monkeypatch.setattr(
        folder_module, "_list_folder", lambda root: listings.append(root) or listing(root)
    )
    assert len(open_pool(tmp_path)) == len(open_pool(tmp_path)) == 2
    assert len(listings) == 1
    write_images(tmp_path, ["a/3.jpg"])
    assert len(open_pool(tmp_path)) == 3
    assert len(open_pool(tmp_path)) == 3
    assert len(listings) == 3, "a folder changed this very moment is listed again"
    age(tmp_path, 50)
    (tmp_path / "a/1.jpg").unlink()
    assert list(open_pool(tmp_path).names) == ["a/2.jpg", "a/3.jpg"]


def test_a_damaged_index_is_made_anew(tmp_path, write_images, caches):
    write_images(tmp_path, ["1.jpg"])
    age(tmp_path)
    open_pool(tmp_path)
    (index,) = (caches / "index").glob("*.arrow")
    for damage in (b"", b"rubbish" * 100, index.read_bytes()[:300]):
        index.write_bytes(damage)
        assert list(open_pool(tmp_path).names) == ["1.jpg"]


def test_without_a_writable_cache_names_stay_in_memory(tmp_path, write_images, monkeypatch):
    write_images(tmp_path / "images", ["1.jpg", "2.jpg"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSREID_SSL_CACHE", str(tmp_path / "file" / "below"))
    pool = pickle.loads(pickle.dumps(open_pool(tmp_path / "images")))
    assert list(pool.names) == ["1.jpg", "2.jpg"]


def test_a_large_pool_is_pickled_as_a_path(tmp_path, write_images, monkeypatch):
    write_images(tmp_path, ["1.jpg"])
    many = [f"folder/{i:07d}.jpg" for i in range(100_000)]
    monkeypatch.setattr(
        folder_module, "_list_folder", lambda root: (many, {"listed": 0, "folders": [["", 0]]})
    )
    pool = open_pool(tmp_path)
    assert len(pickle.dumps(pool)) < 1_000
    part = SubsetPool(pool, np.arange(0, 100_000, 1_000))
    assert len(pickle.dumps(part)) < 3_000
    assert pickle.loads(pickle.dumps(part)).names[1] == "folder/0001000.jpg"


def test_a_pool_listed_anew_meanwhile_is_noticed(tmp_path, write_images):
    write_images(tmp_path, ["1.jpg"])
    sent = pickle.dumps(open_pool(tmp_path))
    write_images(tmp_path, ["2.jpg"])
    open_pool(tmp_path)
    with pytest.raises(UserError, match="listed anew"):
        pickle.loads(sent)


def test_a_pool_that_is_open_keeps_its_names_when_the_index_is_written_anew(caches):
    """It has the old file mapped, which stays as it was: another takes its place under its name."""
    old, new = ([f"{folder}/{n:07d}.jpg" for n in range(50_000)] for folder in ("old", "n"))
    names, _ = cached_names("key", lambda state: True, lambda: (old, {}))
    (path,) = (caches / "index").glob("*.arrow")
    before = path.stat().st_ino
    again, _ = cached_names("key", lambda state: False, lambda: (new[:9], {}))
    assert path.stat().st_ino != before, "written in its place: to read a mapped one ends a process"
    assert list(again) == new[:9]
    assert list(names) == old
    path.unlink()
    assert list(names) == old


def test_missing_file_is_a_corrupt_image(tmp_path, write_images):
    write_images(tmp_path, ["1.jpg", "2.jpg"])
    pool = open_pool(tmp_path)
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(CorruptImage, match=r"2\.jpg: cannot be read"):
        pool.read(1)


def test_lists_of_paths(tmp_path, write_images, encoded):
    write_images(tmp_path / "images", ["a.jpg", "b.jpg"])
    absolute = tmp_path / "images/a.jpg"
    (tmp_path / "list.txt").write_text(f"# my crops\nimages/b.jpg\n\n{absolute}\n")
    pool = open_pool(tmp_path / "list.txt")
    assert list(pool.names) == ["images/b.jpg", str(absolute)]
    assert [pool.read(0), pool.read(1)] == [encoded(1), encoded(0)]
    table = pa.table({"image": ["images/a.jpg"], "cfs": [0.5]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert list(open_pool(tmp_path / "list.parquet").names) == ["images/a.jpg"]
    (tmp_path / "list.txt").write_text("images/a.jpg\n")
    assert len(open_pool(tmp_path / "list.txt")) == 1, "the list changed"


def test_concatenated_pools(tmp_path, write_images):
    first = open_pool(write_images(tmp_path / "a", ["1.jpg", "2.jpg"]))
    second = open_pool(write_images(tmp_path / "b", ["1.jpg", "2.jpg", "3.jpg"]))
    both = ConcatPool([first, second], ["a", "b"])
    assert list(both.names) == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg"]
    assert [both.read(i) for i in range(5)] == [
        *(first.read(i) for i in range(2)),
        *(second.read(i) for i in range(3)),
    ]


def complaint(path, *rest):
    with pytest.raises(UserError) as caught:
        open_pool(path, *rest)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_complaints(tmp_path, write_images):
    assert "no such file or folder" in complaint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert ".jpg, .jpeg, .png" in complaint(tmp_path / "empty")
    (tmp_path / "deep/inner").mkdir(parents=True)
    (tmp_path / "deep/inner/data.mdb").write_bytes(b"")
    assert f"open {tmp_path / 'deep/inner'} instead" in complaint(tmp_path / "deep")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/LUP.tar.gz").write_bytes(b"")
    assert "unpack it first" in complaint(tmp_path / "packed")
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    assert "do not exist (such as 'a.jpg'" in complaint(tmp_path / "list.txt")
    (tmp_path / "none.txt").write_text("# nothing\n")
    assert "the list is empty" in complaint(tmp_path / "none.txt")
    (tmp_path / "image.bin").write_bytes(b"\xff\xfe\x80")
    assert "line 1 is not UTF-8 text" in complaint(tmp_path / "image.bin")
    pq.write_table(pa.table({"cfs": [0.5]}), tmp_path / "scores.parquet")
    assert "column 'image'" in complaint(tmp_path / "scores.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    assert "not a readable Parquet file" in complaint(tmp_path / "broken.parquet")


def test_names_behave_like_a_list():
    plain = [f"n{i}" for i in range(10)]
    names = Names.of(plain)
    assert names[-1] == "n9"
    assert names[2:8:3] == plain[2:8:3]
    assert list(names) == plain
    assert "n3" in names
    assert names.digest == fingerprint(plain)
    assert names.find(Names.of(["n7", "no", "n0"])).tolist() == [7, -1, 0]
    assert Names.of([]).digest == fingerprint([])
    with pytest.raises(IndexError):
        names[10]
    with pytest.raises(UserError, match="UTF-8"):
        Names.of([b"\xff.jpg".decode("utf-8", "surrogateescape")])


# -- what lies in a folder and is no image


@pytest.fixture
def odd(tmp_path, write_images):
    """A folder with two images and everything that looks like one."""
    root = write_images(tmp_path / "odd", ["1.jpg", "ä\nb.jpg", "folder.jpg/notes.txt"])
    os.mkfifo(root / "pipe.jpg")
    (root / "nowhere.jpg").symlink_to(root / "nothing")
    (root / "circle.jpg").symlink_to(root / "circle.jpg")
    (root / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket.jpg"))  # absolute, it may be too long
    for number in range(2):
        (root / f"{number}.HEIC").write_bytes(b"")
    with open(os.path.join(os.fsencode(root), b"\xff.jpg"), "wb") as file:
        file.write(b"")
    return root


@pytest.mark.timeout(20)
def test_only_regular_files_of_readable_names_count(odd):
    pool = open_pool(odd)
    assert list(pool.names) == ["1.jpg", "ä\nb.jpg"]
    line = pool.describe()
    assert line.startswith(f"folder {odd}: 2 images (left out: ")
    assert "5 that are no regular files" in line
    assert "1 whose name is not UTF-8" in line
    assert "2 .heic files" in line
    age(odd)
    assert open_pool(odd).describe() == open_pool(odd).describe() == line, "also from the cache"


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path, write_images):
    root = write_images(tmp_path, ["1.jpg", "2.jpg"])
    pool = open_pool(root)
    (root / "1.jpg").unlink()
    os.mkfifo(root / "1.jpg")
    with pytest.raises(CorruptImage, match="not a regular file"):
        pool.read(0)
    os.mkfifo(root / "pool")
    assert "neither a file nor a folder" in complaint(root / "pool")


def test_one_image_is_a_pool_of_one(tmp_path, write_images, encoded):
    write_images(tmp_path, ["crop.jpg", "other.jpg"])
    pool = open_pool(tmp_path / "crop.jpg")
    assert (list(pool.names), pool.read(0)) == (["crop.jpg"], encoded(0))
    assert pool.describe().endswith("crop.jpg: 1 image")


# -- lists


def test_lists_of_any_editor_and_of_too_much(tmp_path, write_images):
    write_images(tmp_path / "images", ["ä.jpg", "b.jpg"])
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffimages/ä.jpg\r\nimages/b.jpg\r\nimages/ä.jpg\r\n".encode())
    pool = open_pool(path)
    assert list(pool.names) == ["images/ä.jpg", "images/b.jpg"]
    assert "1 repeated name counted once" in pool.describe()
    path.write_bytes("images/ä.jpg\n".encode("latin-1"))
    assert "line 1 is not UTF-8 text" in complaint(path)
    for name in ("../list.txt", "images/../../etc/passwd", "images/b.jpg/../../../x"):
        path.write_text(f"images/b.jpg\n{name}\n")
        assert f"{name!r} is outside of the folder" in complaint(path)
    path.write_text("images/../images/b.jpg\n")
    assert len(open_pool(path)) == 1
    (tmp_path / "CFS_list.pkl").write_bytes(pickle.dumps(["b"]))
    with pytest.raises(
        UserError, match=r"CFS_list\.pkl: is a pickle; .* transreid_ssl\.cfs import"
    ):
        open_pool(tmp_path / "images", tmp_path / "CFS_list.pkl")


def test_damaged_and_foreign_tables(tmp_path, write_images):
    write_images(tmp_path, ["a.jpg"])
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"image": ["a.jpg"] * 100}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert "not a readable Parquet file" in complaint(path)
    missing = pa.table({"image": pa.array(["a.jpg", None])})
    numbers = pa.table({"image": [1, 2]})
    empty = pa.table({"image": pa.array([], pa.string())})
    for table, message in (
        (missing, "1 of its 2 names is missing"),
        (numbers, "text column"),
        (empty, "empty"),
    ):
        pq.write_table(table, path)
        assert message in complaint(path)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(content=st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_no_text_list_ends_otherwise_than_in_names_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_bytes(content)
    outcome(lambda: read_names(path))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5)
)
def test_no_damaged_table_ends_otherwise_than_in_names_or_one_line(tmp_path_factory, places):
    path = tmp_path_factory.mktemp("tables") / "list.parquet"
    pq.write_table(pa.table({"image": [f"images/{i}.jpg" for i in range(50)]}), path)
    path.write_bytes(damaged(path.read_bytes(), places))
    outcome(lambda: read_names(path))


# -- the index in the cache


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=3),
    length=st.floats(0, 1),
)
def test_random_damage_to_the_index_never_gives_other_names(
    tmp_path_factory, caches, places, length
):
    root = tmp_path_factory.mktemp("images")
    names = [f"{number}.jpg" for number in range(20)]
    for name in names:
        (root / name).touch()
    age(root)
    before = set((caches / "index").glob("*.arrow"))
    assert list(open_pool(root).names) == sorted(names)
    (index,) = set((caches / "index").glob("*.arrow")) - before
    content = index.read_bytes()
    changed = damaged(content, places)[: int(len(content) * length) or None]
    index.unlink()  # a file that is mapped must not be made shorter
    index.write_bytes(changed)
    pool = open_pool(root)
    assert list(pool.names) == sorted(names)
    assert ("its index in the cache was damaged" in pool.describe()) == (changed != content)
    assert open_pool(root).notes == (), "said once"
