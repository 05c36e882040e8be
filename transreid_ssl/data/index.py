"""Millions of names without millions of Python strings: an Arrow column, mapped from a cache.

A folder of 4.2 million crops takes a minute to list. It is listed once; later runs, and every
worker process, map the same file, after they have compared it with the digest at its end (0.3 s for
4.2 million names). The cache is ``$TRANSREID_SSL_CACHE`` or ``~/.cache/transreid_ssl`` and may be
deleted at any time. An index that is made anew takes the place of the old file, of which those that
have it mapped keep what they read.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, fingerprint

_BLOCK = 65_536
_END = b"transreid_ssl.1\n"  # a file ends with it and a digest of all that stands before
_DIGEST_BYTES = 32


class Names(Sequence[str]):
    """A sequence of names held in one Arrow column; pickled as a file path when it is mapped."""

    column: pa.Array

    def __init__(self, column: pa.Array, path: Path | None = None, digest: str | None = None):
        self.column, self._path, self._digest = column, path, digest

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Names in memory.

        Raises:
            UserError: a file name that is not valid UTF-8.
        """
        if isinstance(names, cls):
            return names
        names = names if isinstance(names, list) else list(names)
        try:
            return cls(pa.array(names, pa.large_string()))
        except UnicodeEncodeError as error:
            raise UserError(
                f"{error.object!r}: a file name that is not valid UTF-8; rename it"
            ) from error

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.column.take(np.arange(len(self))[index]).to_pylist()
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.column[int(index) % len(self)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self.column.slice(start, _BLOCK).to_pylist()

    def take(self, indices: np.ndarray) -> "Names":
        """The names at ``indices`` int64 (M,), in that order."""
        return Names(self.column.take(pa.array(indices)))

    def find(self, names: "Names") -> np.ndarray:
        """Positions int64 (M,) of ``names`` in this sequence; -1 where a name is unknown."""
        found = pc.index_in(names.column, value_set=self.column)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    @property
    def digest(self) -> str:
        """The same 16 hex digits wherever the same names stand in the same order."""
        if self._digest is None:
            blocks = range(0, len(self), _BLOCK)
            self._digest = fingerprint(
                "\0".join(self.column.slice(start, _BLOCK).to_pylist()) for start in blocks
            )
        return self._digest

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            return Names, (self.column,)
        return _reopen, (self._path, self.digest)


class _Damaged(Exception):
    """An index that is not what was written."""


def cached_names(
    key: str,
    is_current: Callable[[dict[str, Any]], bool],
    build: Callable[[], tuple[Sequence[str], dict[str, Any]]],
) -> tuple[Names, list[str]]:
    """The names belonging to ``key``, from the cache while ``is_current(state)`` holds.

    Otherwise ``build()`` returns them anew with a JSON-able ``state`` that is stored beside them.
    Where the cache cannot be written the names stay in memory.

    Returns:
        The names, and for people the ``notes`` of their state; with one more where the cache was
        damaged and the names were listed anew.
    """
    path = cache_folder() / f"{fingerprint([key])}.arrow"
    damage = []
    try:
        names, state = _load(path)
        if is_current(state):
            return names, state.get("notes", [])
    except _Damaged:
        damage = ["listed anew, as its index in the cache was damaged"]
    except OSError:
        pass  # there is none yet
    names, state = build()
    built, notes = Names.of(names), [*state.get("notes", []), *damage]
    with contextlib.suppress(UserError, OSError, _Damaged):
        _save(path, built, state)
        return _load(path)[0], notes
    return built, notes


def cache_folder() -> Path:
    """Where indexes are kept."""
    chosen = os.environ.get("TRANSREID_SSL_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "transreid_ssl"


def _save(path: Path, names: Names, state: dict[str, Any]) -> None:
    metadata = {"digest": names.digest, "state": json.dumps(state)}
    table = pa.table({"name": names.column}).replace_schema_metadata(metadata)
    with atomic_path(path) as temporary:
        with pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table)
        with open(temporary, "rb+") as file:
            digest = hashlib.file_digest(file, _hash).digest()
            file.write(_END + digest)


def _hash() -> Any:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def _load(path: Path) -> tuple[Names, dict[str, Any]]:
    """The names and their state, mapped.

    Raises:
        OSError: there is no such file.
        _Damaged: it is not as it was written. Arrow believes what it maps: it would give wrong
            names, or end the process where a file is too short.
    """
    with pa.memory_map(str(path)) as file:
        content = file.read_buffer()
    end = max(0, content.size - _DIGEST_BYTES - len(_END))
    written, digest = content.slice(0, end), _hash()
    digest.update(written)
    if content.slice(end).to_pybytes() != _END + digest.digest():
        raise _Damaged(path)
    table = pa.ipc.open_file(pa.BufferReader(written)).read_all()
    metadata = table.schema.metadata
    column = table.column("name")
    # One chunk is one O(1) look-up; an empty table has no chunk at all.
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    names = Names(array, path, metadata[b"digest"].decode())
    return names, json.loads(metadata[b"state"])


def _reopen(path: Path, digest: str) -> Names:
    try:
        names, _ = _load(path)
    except (OSError, _Damaged) as error:
        raise UserError(
            f"{path}: the list of images is lost; run the same command again"
        ) from error
    if names.digest != digest:
        raise UserError(
            f"{path}: the images were listed anew meanwhile; run the same command again"
        )
    return names
