"""Images in the rows of Parquet files: read in place where they can be, else by ``datasets``."""

import contextlib
import itertools
import mmap
import os
import sys
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError, brief
from transreid_ssl.logs import RUN
from transreid_ssl.words import counted

_BATCH = 16  # rows that are decoded at a time; damage among them costs them all
_AT_ONCE = 1 << 14  # bytes: most images are smaller
_UNKNOWN, _NONE, _DAMAGED = 0, -1, -2  # in the place of a place


def open_rows(
    shards: list[Path], column: str, count: int, ready: bool = True
) -> "RowsInPlace | CachedRows":
    """The bytes of each row of ``column``, in the order of the files.

    Without ``ready``, files that are to be decoded are so when a row is read first.

    Raises:
        UserError: a file without this column or that cannot be read, or not ``count`` rows in all.
    """
    groups, plain = [], True
    for number, shard in enumerate(shards):
        metadata = pq.read_metadata(shard)
        for group in range(metadata.num_row_groups):
            groups.append((number, group, metadata.row_group(group).num_rows))
            chunk = _chunk(metadata.row_group(group), column)
            if chunk is None:
                raise UserError(
                    f"{shard}: has no column {column} of images, as {shards[0].name} has; "
                    "remove it, or write it again"
                )
            plain &= _is_plain(chunk)
    found = sum(rows for *_, rows in groups)
    if found != count:
        raise UserError(
            f"{shards[0].parent}: {counted(found, 'row')} of {counted(count, 'name')}; a "
            "shard is damaged or was written meanwhile: run the same command again"
        )
    if plain:
        return RowsInPlace(shards, column, groups)
    cached = CachedRows(shards, column)
    if ready:
        cached.open()
    return cached


class CachedRows:
    """Rows of files that are compressed, out of the cache of ``datasets``.

    A compressed row group is decoded as a whole, for one of its images too: in random order that
    gives a hundredth of the images. ``datasets`` decodes each file once, when it is opened first,
    into a cache that is mapped into memory, which takes about the files' own size of disk.
    """

    note = (
        "compressed: decoded once into the cache of `datasets`, as large again; `data pack` writes "
        "shards that are read where they lie"
    )

    def __init__(self, shards: list[Path], column: str) -> None:
        self._shards, self._column = shards, column
        self._rows: Any = None

    def open(self) -> None:
        """Decode the files, unless that was done before.

        Raises:
            UserError: one of them is damaged, or the cache cannot be written.
        """
        import datasets

        shards, column = self._shards, self._column
        where = shards[0] if len(shards) == 1 else shards[0].parent  # which one is not said
        files = [escape(str(shard)) for shard in shards]
        try:
            with _bars_on_terminals():
                builder = datasets.load_dataset_builder(
                    "parquet", data_files=files, columns=[column]
                )
                if not os.path.exists(builder.cache_dir):
                    size = sum(shard.stat().st_size for shard in shards) / 1e6
                    RUN.info(f"{where}: {size:,.0f} MB are decoded once, into {builder.cache_dir}")
                builder.download_and_prepare()
                rows = builder.as_dataset(split="train")
        except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError, ValueError) as error:
            cause = brief(error.__cause__ or error)
            raise UserError(
                f"{where}: the shards cannot be opened ({cause}); write them again"
            ) from error
        if isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._rows = rows

    def read(self, row: int) -> bytes | None:
        """The bytes in a row; None where there are none."""
        if self._rows is None:
            self.open()
        value = self._rows[row][self._column]
        encoded = value.get("bytes") if isinstance(value, dict) else value
        return encoded if isinstance(encoded, bytes) else None


@contextlib.contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """The progress bars of ``datasets``, which would otherwise stand between lines of a log."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


class RowsInPlace:
    """Rows of files whose pages are as they were encoded: no compression, no dictionary.

    Parquet finds a row group, not a row. But in such files an image stands byte for byte, behind
    its length. So when a row of a row group is asked for first, it is noted where all its images
    stand, in memory that forked workers share, and they are read from there. So the first pass of
    a process and its workers reads a pool twice: 50 to 100 ms for a thousand crops of 10 kB.

    Args:
        groups: of each row group the shard's number, its own within it, and its rows.
    """

    note = None

    def __init__(self, shards: list[Path], column: str, groups: list[tuple[int, int, int]]) -> None:
        self._shards, self._column = shards, column
        self._stamps = [_stamp(os.stat(shard)) for shard in shards]
        known = np.array(groups, np.int64).reshape(-1, 3)
        self._groups, self._ends = known[:, :2], np.cumsum(known[:, 2])
        self._causes: dict[int, str] = {}  # why row groups are damaged, as this process found
        self._begin()

    def _begin(self) -> None:
        """What a process shares with those that it forks."""
        self._places = np.frombuffer(mmap.mmap(-1, max(1, len(self)) * 8), np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_places"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, row: int) -> bytes | None:
        """The bytes in a row; None where there are none.

        Raises:
            OSError, ValueError, pyarrow.ArrowException: the file is damaged, or another one.
        """
        group = int(np.searchsorted(self._ends, row, side="right"))
        number, within = self._groups[group].tolist()
        with open(self._shards[number], "rb", buffering=0) as file:
            self._require_unchanged(number, file.fileno())
            if self._places[row] == _UNKNOWN:
                self._note(group, file.fileno())
            place = int(self._places[row])
            if place == _DAMAGED:
                where = f"{self._shards[number].name}, row group {within}"
                raise ValueError(f"{where}: {self._causes.get(group, 'damaged')}")
            return None if place == _NONE else self._read_at(number, file.fileno(), place)

    def _require_unchanged(self, number: int, file: int) -> None:
        if _stamp(os.fstat(file)) != self._stamps[number]:
            raise OSError(f"{self._shards[number].name} was changed meanwhile")

    def _read_at(self, number: int, file: int, place: int) -> bytes:
        found = os.pread(file, _AT_ONCE, place - 4)
        end = 4 + int.from_bytes(found[:4], "little")
        if end > len(found):
            found += os.pread(file, end - len(found), place - 4 + len(found))
        if len(found) < end:
            raise OSError(f"{self._shards[number].name} is cut short")
        return found[4:end]

    def _note(self, group: int, file: int) -> None:
        """Note where the images of a row group stand, or from which row on it is damaged.

        What is damaged is not looked at again; a disk or a net that fails may work the next time.
        """
        places: list[int] = []
        first = int(self._ends[group - 1]) if group else 0
        count = int(self._ends[group]) - first
        try:
            for place in itertools.islice(self._found(group, file), count):
                places.append(place)
        except (pa.ArrowException, OSError, ValueError) as error:
            self._require_unchanged(int(self._groups[group, 0]), file)
            if getattr(error, "errno", None):
                raise
            self._causes[group] = brief(error)
        places += [_DAMAGED] * (count - len(places))
        self._places[first : first + count] = places

    def _found(self, group: int, file: int) -> Iterator[int]:
        """The places of the images of a row group, in order.

        Nothing is mapped into memory: to touch what another program has cut off a mapped file ends
        the process.
        """
        number, within = self._groups[group].tolist()
        with pq.ParquetFile(
            self._shards[number],
            # Page by page: else a row group, which may be the whole file, is held in memory.
            buffer_size=1 << 16,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as shard:
            chunk = _chunk(shard.metadata.row_group(within), self._column)
            reached = chunk.data_page_offset
            end = reached + chunk.total_compressed_size
            for value in self._values(shard, within):
                if value is None:
                    yield _NONE
                    continue
                found = _find(len(value).to_bytes(4, "little") + value, file, reached, end)
                if found < 0:
                    raise ValueError("images are not in their order")
                yield found + 4
                reached = found + 4 + len(value)

    def _values(self, file: pq.ParquetFile, group: int) -> Iterator[bytes | None]:
        name, inner = self._column, f"{self._column}.bytes"
        struct = pa.types.is_struct(file.schema_arrow.field(name).type)
        for batch in file.iter_batches(
            _BATCH, row_groups=[group], columns=[inner if struct else name], use_threads=False
        ):
            values = batch.column(0)
            yield from (pc.struct_field(values, "bytes") if struct else values).to_pylist()


def _find(wanted: bytes, file: int, start: int, end: int) -> int:
    """Where in ``start`` to ``end`` of a file these bytes stand first; -1 if nowhere."""
    while start + len(wanted) <= end:
        window = os.pread(file, len(wanted) + _AT_ONCE, start)
        found = window.find(wanted)
        if found >= 0:
            return start + found
        if len(window) < len(wanted):  # the file is cut short
            break
        start += len(window) - len(wanted) + 1
    return -1


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


def _chunk(group: Any, column: str) -> Any:
    """What the metadata of a row group says of the bytes of its images; None if it has none."""
    chunks = (group.column(number) for number in range(group.num_columns))
    names = (column, f"{column}.bytes")
    return next((chunk for chunk in chunks if chunk.path_in_schema in names), None)


def _is_plain(chunk: Any) -> bool:
    plain = {"PLAIN", "RLE", "BIT_PACKED"}  # the latter two are of what is missing
    return chunk.compression == "UNCOMPRESSED" and plain.issuperset(chunk.encodings)
