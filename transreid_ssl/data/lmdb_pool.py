"""LUPerson as its authors lay it out: one LMDB of JPEGs and a pickled list of keys.

Their converter pickles a plain list while their trainer expects a dictionary with ``keys``; both
are read. A pickle can run any program, so this one is read without knowing any class or function.
"""

import importlib.util
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transreid_ssl.data.folder import is_utf8
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.index import Names, cached_names
from transreid_ssl.data.lists import once_each
from transreid_ssl.data.pool import Pool, file_stamp
from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path
from transreid_ssl.reading import load_plain_pickle
from transreid_ssl.words import counted

_BATCH = 1_000  # images of one transaction
_LONGEST_KEY = 511  # bytes, as LMDB is built
_SPARE = 1 << 24  # bytes of room in a map beyond what is known to be needed

_environments: dict[str, Any] = {}  # one handle a database and process, as LMDB demands
_opening = threading.Lock()


class LMDBPool(Pool):
    """Images in an LMDB, by key.

    ``path`` is the folder with ``data.mdb`` (or that file, or the folder above it); ``keys.pkl``
    lies in it or beside it. Without a key file the keys are listed from the database itself.

    A database that is shorter than it says is refused. What cannot be caught is damage within its
    pages: LMDB keeps no checksums, and its library may end the process when it meets it.
    """

    kind = "LMDB"

    database: str

    def __init__(self, path: str | Path) -> None:
        database = find_database(path)
        if database is None:
            raise UserError(f"{path}: no data.mdb in it")
        _require_library(f"{path}: reading an LMDB")
        self.database = str(database)
        key_file = _find_key_file(database)
        stamped = key_file or database / "data.mdb"
        status = os.stat(stamped)
        state = {"file": str(stamped), "mtime": status.st_mtime_ns, "size": status.st_size}
        names, notes = cached_names(
            f"lmdb {os.path.realpath(database)}",
            is_current=lambda known: known == known | state,
            build=lambda: self._read_names(key_file, state),
        )
        super().__init__(str(path), names, notes)
        self._check(key_file)

    def stamps(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Of the one file that holds all images."""
        return np.tile(file_stamp(Path(self.database, "data.mdb")), (len(places), 1))

    def _read_names(
        self, key_file: Path | None, state: dict[str, Any]
    ) -> tuple[Names, dict[str, Any]]:
        if key_file:
            names, notes = once_each(Names.of(read_keys(key_file)))
        else:
            names, notes = self._list_keys()
        return names, state | {"notes": notes}

    def _get(self, key: str) -> bytes | None:
        """The value of a key, None if there is none.

        Raises:
            CorruptImage: damaged pages, or a key of an impossible length.
        """
        try:
            with _environment(self.database).begin() as transaction:
                return transaction.get(key.encode())
        except _lmdb_error() as error:
            raise CorruptImage(key, f"cannot be read from the LMDB ({error})") from error

    def _list_keys(self) -> tuple[Names, list[str]]:
        """All keys that are text, and how many are not."""
        try:
            with _environment(self.database).begin() as transaction:
                keys = list(transaction.cursor().iternext(values=False))
        except _lmdb_error() as error:
            raise UserError(f"{self.database}: damaged ({error}); copy it again") from error
        texts = [text for key in keys if (text := _text(key)) is not None]
        others = len(keys) - len(texts)
        said = counted(others, "whose key is not UTF-8", "whose keys are not UTF-8")
        return Names.of(texts), [f"left out: {said}"] * (others > 0)

    def _check(self, key_file: Path | None) -> None:
        """One key from either end must be there: the two files travel separately."""
        if not len(self.names):
            raise UserError("; ".join([f"{key_file or self.database}: no key in it", *self.notes]))
        for name in (self.names[0], self.names[-1]):
            try:
                found = self._get(name) is not None
            except CorruptImage as error:
                raise UserError(f"{self.database}: {error}; copy it again") from error
            if not found:
                raise UserError(
                    f"{key_file}: its key {name!r} is not in {self.database}; "
                    "give the keys.pkl that was made with this database"
                )

    def read(self, index: int) -> bytes:
        """The bytes stored under the key."""
        name = self.names[index]
        value = self._get(name)
        if value is None:
            raise CorruptImage(name, "not in the LMDB")
        return value


def _lmdb_error() -> type[Exception]:
    import lmdb

    return lmdb.Error


def _text(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _require_library(what: str) -> None:
    if importlib.util.find_spec("lmdb") is None:
        raise UserError(f"{what} needs: pip install 'transreid_ssl[lmdb]'")


def _environment(database: str) -> Any:
    """The open database, opened on first use."""
    path = os.path.realpath(database)
    with _opening:
        if path not in _environments:
            import lmdb

            try:
                environment = lmdb.open(path, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise UserError(f"{database}: not a readable LMDB ({error})") from error
            _refuse_unfinished(database, environment, "an unfinished copy; copy it again")
            _environments[path] = environment
        return _environments[path]


def _refuse_unfinished(database: str, environment: Any, advice: str) -> None:
    """A page behind the end of the file would end the process with a bus error."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = os.path.getsize(os.path.join(database, "data.mdb"))
    if size < expected:
        environment.close()
        raise UserError(
            f"{database}: data.mdb has {size:,} bytes and should have {expected:,}: {advice}"
        )


def _forget_environments() -> None:
    """A handle must not be used across a fork: a new process opens its own."""
    global _opening
    _opening = threading.Lock()
    while _environments:
        _environments.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_environments)


def find_database(path: str | Path) -> Path | None:
    """The folder that holds ``data.mdb`` for the path a user gave, or None."""
    path = Path(path)
    if path.name == "data.mdb" and path.is_file():
        return path.parent
    for folder in (path, path / "lmdb"):
        if (folder / "data.mdb").is_file():
            return folder
    return None


def _find_key_file(database: Path) -> Path | None:
    for folder in (database, database.absolute().parent):
        if (folder / "keys.pkl").is_file():
            return folder / "keys.pkl"
    return None


def read_keys(path: str | Path) -> list[str]:
    """The keys in a pickled list or a pickled dictionary ``{"keys": …}``, as text.

    Raises:
        UserError: no such file, another content, or a pickle that asks for any class or function.
    """
    value = load_plain_pickle(path)
    if isinstance(value, dict) and b"keys" in value:  # written by Python 2
        value = value[b"keys"]
    elif isinstance(value, dict):
        value = value.get("keys")
    if not isinstance(value, list | tuple):
        raise UserError(f"{path}: expected a pickled list of keys or a dictionary with 'keys'")
    if not all(isinstance(key, str | bytes) for key in value):
        raise UserError(f"{path}: expected keys that are text, found {type(value[0]).__name__}")
    keys = [_text(key) if isinstance(key, bytes) else key for key in value]
    if not all(key is not None and is_utf8(key) for key in keys):
        raise UserError(
            f"{path}: has keys that are not UTF-8 text, which no image's name here can be"
        )
    return keys


def write_lmdb(pool: Pool, folder: Path) -> Iterator[str | None]:
    """Write ``pool`` as ``lmdb/data.mdb`` and ``keys.pkl`` into ``folder``, broken images left out.

    Keys are the images' names and their list is a dictionary with ``keys``, as LUPerson's trainer
    expects it. Images that are in the LMDB already stay. Yields once an image: None, or why it was
    left out.

    Raises:
        UserError: lmdb is not installed, a name cannot be a key, or LMDB cannot write.
    """
    _require_library("writing an LMDB")
    import lmdb

    _check_names(pool)
    (folder / "lmdb").mkdir(exist_ok=True)
    keys: list[str] = []
    try:
        with lmdb.open(
            str(folder / "lmdb"), map_size=_SPARE, lock=False, mode=0o644
        ) as environment:
            _refuse_unfinished(str(folder / "lmdb"), environment, f"remove {folder.parent}")
            for start in range(0, len(pool), _BATCH):
                indices = range(start, min(start + _BATCH, len(pool)))
                there = _there(environment, pool, indices, folder.parent)
                batch: list[tuple[str, bytes]] = []
                for index in indices:
                    if index not in there:
                        try:
                            batch.append((pool.names[index], pool.read_sound(index)))
                        except CorruptImage as error:
                            yield str(error)
                            continue
                    keys.append(pool.names[index])
                    yield None
                _put(environment, batch)
    except (lmdb.DiskError, lmdb.MapFullError) as error:
        raise UserError(
            f"{folder.parent}: writing the LMDB failed ({error}); what is finished is kept: free "
            "some space and run the same command again"
        ) from error
    except lmdb.Error as error:
        raise UserError(
            f"{folder.parent}: writing the LMDB failed ({error}); remove it and begin anew"
        ) from error
    with atomic_path(folder / "keys.pkl") as temporary:
        temporary.write_bytes(pickle.dumps({"keys": keys}))


def _check_names(pool: Pool) -> None:
    """Refuse names that cannot be keys."""
    names = pool.arrow_names().column
    lengths = pc.binary_length(names.cast(pa.large_binary()))
    unfit = pc.or_(pc.equal(lengths, 0), pc.greater(lengths, _LONGEST_KEY))
    counts = pc.value_counts(names)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    for found, why in (
        (names.filter(unfit), f"a key of LMDB has 1 to {_LONGEST_KEY} bytes"),
        (repeated, "two images of this name"),
    ):
        if len(found):
            raise UserError(f"{found[0].as_py()!r}: {why}; pack into Parquet instead")


def _there(environment: Any, pool: Pool, indices: range, where: Path) -> set[int]:
    """Those of the images whose names are keys already; the first is compared with the pool's."""
    with environment.begin() as transaction:
        cursor = transaction.cursor()
        found = {index for index in indices if cursor.set_key(pool.names[index].encode())}
        for index in sorted(found)[:1]:
            pool.require_same(index, transaction.get(pool.names[index].encode()), where)
    return found


def _put(environment: Any, batch: list[tuple[str, bytes]]) -> None:
    """Write images in one transaction; the map is first made large enough, as LMDB demands."""
    page, known = environment.stat()["psize"], environment.info()
    # A value takes whole pages, and its key may change one more.
    needed = sum(len(encoded) + 2 * page for _, encoded in batch)
    size = (known["last_pgno"] + 1) * page + needed + _SPARE
    environment.set_mapsize(max(known["map_size"], size + -size % _SPARE))
    with environment.begin(write=True) as transaction:
        for name, encoded in batch:
            transaction.put(name.encode(), encoded)
