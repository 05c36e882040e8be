"""LUPerson's LMDB: both forms of its key file, nothing executed, usable in worker processes."""

import contextlib
import multiprocessing
import os
import pickle
import shutil
import sys

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import damaged, outcome
from transreid_ssl.data import lmdb_pool
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.lmdb_pool import read_keys
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.packing import pack
from transreid_ssl.data.pool import SubsetPool
from transreid_ssl.errors import UserError
from transreid_ssl.reading import load_plain_pickle

KEYS = [f"US_ny_0001_{i:08d}" for i in (3, 1, 2)]


@pytest.fixture
def database(tmp_path, encoded):
    folder = tmp_path / "lup"
    with (
        lmdb.open(str(folder), map_size=1 << 22) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number, key in enumerate(KEYS):
            transaction.put(key.encode(), encoded(number))
    return folder


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "content",
    [KEYS, {"keys": KEYS, "pids": [1, 2, 3]}, [key.encode() for key in KEYS]],
    ids=["list", "dict", "bytes"],
)
def test_key_files(database, encoded, content, protocol):
    (database / "keys.pkl").write_bytes(pickle.dumps(content, protocol))
    pool = open_pool(database)
    assert list(pool.names) == KEYS
    assert [pool.read(i) for i in range(3)] == [encoded(i) for i in range(3)]
    assert pool.describe() == f"LMDB {database}: 3 images"


def test_python_2_pickles():
    """What Python 2 wrote for {'keys': ['a', 'b']}: byte strings by the old opcodes."""
    with_old_strings = b"(dp0\nS'keys'\np1\n(lp2\nS'a'\np3\naS'b'\np4\nas."
    path = os.path.join(os.environ["TRANSREID_SSL_CACHE"], "keys.pkl")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(with_old_strings)
    assert read_keys(path) == ["a", "b"]


def test_key_file_beside_the_database(database):
    (database.parent / "keys.pkl").write_bytes(pickle.dumps(KEYS[:2]))
    (database.parent / "other").mkdir()
    shutil.move(database, database.parent / "lmdb")
    assert list(open_pool(database.parent).names) == KEYS[:2]


def test_without_a_key_file_the_database_is_listed(database):
    assert list(open_pool(database).names) == sorted(KEYS)
    assert list(open_pool(database / "data.mdb").names) == sorted(KEYS)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_read_in_another_process(database, encoded, method):
    (database / "keys.pkl").write_bytes(pickle.dumps(KEYS))
    pool = open_pool(database)
    pool.read(0)  # the handle of this process must not travel
    with multiprocessing.get_context(method).Pool(1) as workers:
        assert workers.apply(pool.read, (2,)) == encoded(2)


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, print, open, getattr])
def test_a_key_file_that_wants_to_run_something_is_refused(database, tmp_path, function):
    path = database / "keys.pkl"
    path.write_bytes(pickle.dumps({"keys": [Malicious(function, f"{tmp_path}/ran", "w")]}))
    with pytest.raises(UserError, match=r"asks for .*; refused"):
        open_pool(database)
    assert not (tmp_path / "ran").exists()


def test_codecs_are_not_a_way_round(tmp_path):
    import codecs

    path = tmp_path / "keys.pkl"
    path.write_bytes(pickle.dumps(Malicious(codecs.encode, "x", "rot13"), protocol=2))
    with pytest.raises(UserError, match="refused"):
        load_plain_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"pids": []}), "dictionary with 'keys'"),
        (pickle.dumps([1, 2]), "keys that are text"),
        (pickle.dumps([]), "no key"),
        (b"rubbish", "not a readable pickle"),
        (pickle.dumps(KEYS)[:-9], "not a readable pickle"),
        (pickle.dumps(["other", "keys"]), "the keys.pkl that was made with this database"),
    ],
)
def test_unusable_key_files(database, content, message):
    (database / "keys.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_pool(database)


def test_a_key_in_the_middle_that_is_missing(database):
    (database / "keys.pkl").write_bytes(pickle.dumps([KEYS[0], "lost", KEYS[1]]))
    with pytest.raises(CorruptImage, match="not in the LMDB"):
        open_pool(database).read(1)


def test_not_a_database(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="not a readable LMDB"):
        open_pool(tmp_path)


def test_missing_library_names_the_install(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"pip install 'transreid_ssl\[lmdb\]'"):
        open_pool(database)


# -- writing


def test_packed_and_opened_again(tmp_path, write_images, monkeypatch):
    monkeypatch.setattr(lmdb_pool, "_BATCH", 3)
    names = [f"country/video/{i}.jpg" for i in (5, 1, 9, 3, 7, 0, 2)]
    pool = open_pool(write_images(tmp_path / "images", names))
    ticks = []
    assert pack(pool, tmp_path / "packed", tick=lambda: ticks.append(1), kind="lmdb") == []
    assert len(ticks) == 7
    files = {str(path.relative_to(tmp_path / "packed")) for path in tmp_path.glob("packed/**/*")}
    assert files == {"lmdb", "lmdb/data.mdb", "keys.pkl", ".finished"}
    again = open_pool(tmp_path / "packed")
    assert again.describe() == f"LMDB {tmp_path / 'packed'}: 7 images"
    assert list(again.names) == list(pool.names)
    assert again.fingerprint == pool.fingerprint
    assert [again.read(i) for i in range(7)] == [pool.read(i) for i in range(7)]


def test_packed_as_luperson_reads_it(tmp_path, write_images, encoded):
    """Its trainer takes data["keys"], and the bytes of a key encoded in ASCII."""
    pool = open_pool(write_images(tmp_path / "images", ["a.jpg", "b.jpg"]))
    pack(pool, tmp_path / "packed", kind="lmdb")
    keys = pickle.loads((tmp_path / "packed/keys.pkl").read_bytes())["keys"]
    assert keys == ["a.jpg", "b.jpg"]
    with (
        lmdb.open(str(tmp_path / "packed/lmdb"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        assert transaction.get(keys[1].encode("ascii")) == encoded(1)


def test_the_map_grows_with_the_images(tmp_path, write_images, monkeypatch):
    monkeypatch.setattr(lmdb_pool, "_BATCH", 8)
    monkeypatch.setattr(lmdb_pool, "_SPARE", 1 << 16)  # less than the first images take
    pool = open_pool(write_images(tmp_path / "images", ["a.jpg", "b.jpg"]))
    many = SubsetPool(pool, [0, 1] * 150)
    many.names = [f"{i * 7919 % 300:0300d}" for i in range(300)]
    pack(many, tmp_path / "packed", kind="lmdb")
    assert (tmp_path / "packed/lmdb/data.mdb").stat().st_size > 10 * lmdb_pool._SPARE
    again = open_pool(tmp_path / "packed")
    assert [again.read(i) for i in (0, 299)] == [pool.read(i) for i in (0, 1)]


def test_broken_images_are_left_out_of_the_lmdb(tmp_path, write_images, encoded):
    root = write_images(tmp_path / "images", ["1.jpg", "2.jpg", "3.jpg"])
    (root / "2.jpg").write_bytes(encoded(1)[:-50])
    left_out = pack(open_pool(root), tmp_path / "packed", kind="lmdb")
    assert left_out == ["2.jpg: truncated JPEG (no end marker)"]
    assert (tmp_path / "packed/left_out.txt").read_text() == left_out[0] + "\n"
    assert list(open_pool(tmp_path / "packed").names) == ["1.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("indices", "names", "message"),
    [([0, 0], None, r"'1\.jpg': two images of this name"), ([0], ["x" * 600], "1 to 511 bytes")],
)
def test_names_that_are_no_keys(tmp_path, write_images, indices, names, message):
    pool = SubsetPool(open_pool(write_images(tmp_path / "images", ["1.jpg"])), indices)
    pool.names = names or pool.names
    with pytest.raises(UserError, match=message):
        pack(pool, tmp_path / "out/packed", kind="lmdb")
    assert list((tmp_path / "out").iterdir()) == [], "nothing is left behind"


def test_a_full_disk_is_one_line(tmp_path, write_images, monkeypatch):
    def full(*_arguments):
        raise lmdb.DiskError("no space left on device")

    pool = open_pool(write_images(tmp_path / "images", ["1.jpg"]))
    with monkeypatch.context() as disk:
        disk.setattr(lmdb_pool, "_put", full)
        with pytest.raises(UserError, match=r"unfinished: writing the LMDB failed \(no space left"):
            pack(pool, tmp_path / "out/packed", kind="lmdb")
    assert pack(pool, tmp_path / "out/packed", kind="lmdb") == []
    assert open_pool(tmp_path / "out/packed").read(0) == pool.read(0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["packed"]


def test_writing_without_the_library_names_the_install(tmp_path, write_images, monkeypatch):
    pool = open_pool(write_images(tmp_path / "images", ["1.jpg"]))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"writing an LMDB needs: pip install 'transreid_ssl"):
        pack(pool, tmp_path / "out/packed", kind="lmdb")
    assert list((tmp_path / "out").iterdir()) == []


# -- damaged databases and key files


def test_an_unfinished_copy_is_told_from_its_size(database, encoded):
    whole = (database / "data.mdb").read_bytes()
    for share in (0.3, 0.5, 0.9):
        (database / "data.mdb").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match=r"unfinished copy|not a readable LMDB"):
            open_pool(database)


def test_keys_that_are_no_names(database, encoded):
    with (
        lmdb.open(str(database), map_size=1 << 22) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"\xff\xfe", encoded(0))
    pool = open_pool(database)
    assert list(pool.names) == sorted(KEYS)
    assert "left out: 1 whose key is not UTF-8" in pool.describe()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["", *KEYS], "cannot be read from the LMDB"),
        ([b"\xff", *KEYS], "not UTF-8 text"),
        (["\ud800", *KEYS], "not UTF-8 text"),
        (["x" * 600, *KEYS], "the keys.pkl that was made with this database"),
    ],
)
def test_impossible_keys(database, keys, message):
    (database / "keys.pkl").write_bytes(pickle.dumps(keys))
    with pytest.raises(UserError, match=message):
        open_pool(database)


def test_a_repeated_key_counts_once(database):
    (database / "keys.pkl").write_bytes(pickle.dumps([*KEYS, KEYS[1]]))
    pool = open_pool(database)
    assert list(pool.names) == KEYS
    assert "1 repeated name counted once" in pool.describe()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5)
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_damaged_key_file_ends_otherwise_than_in_keys_or_one_line(
    tmp_path_factory, protocol, places
):
    path = tmp_path_factory.mktemp("keys") / "keys.pkl"
    path.write_bytes(damaged(pickle.dumps({"keys": KEYS, "pids": [1, 2, 3]}, protocol), places))
    outcome(lambda: read_keys(path))


def _read_damaged(folder, number):
    """Open and read a database with some bytes changed: in a process that may crash."""
    rng = np.random.default_rng(number)
    path = folder / "data.mdb"
    content = path.read_bytes()
    places = zip(rng.integers(0, len(content), 8), rng.integers(0, 256, 8))
    path.write_bytes(damaged(content, places))
    pool = outcome(lambda: open_pool(folder))
    for index in range(0 if isinstance(pool, UserError) else len(pool)):
        with contextlib.suppress(CorruptImage):
            pool.read(index)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_damaged_databases_in_a_process_of_their_own(database, tmp_path):
    process = multiprocessing.get_context("fork")
    for number in range(20):
        folder = shutil.copytree(database, tmp_path / str(number))
        child = process.Process(target=_read_damaged, args=(folder, number))
        child.start()
        child.join()
        assert child.exitcode == 0, number
