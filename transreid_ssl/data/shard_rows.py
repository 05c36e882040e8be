"""The images in the rows of Parquet files, read in place: nothing is copied beforehand."""

import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError

_BATCH = 1_000  # rows that are decoded at a time
_KEPT = 128 << 20  # bytes of row groups that a process keeps decoded, of files that are not plain
_SMALL = 200  # images of a row group that may well be decoded for one of them
_AT_ONCE = 1 << 14  # bytes: most images are smaller
_UNKNOWN, _NONE = 0, -1


class ShardRows:
    """The bytes of each row of ``column``, in the order of the files.

    Parquet finds a row group, not a row: to decode a thousand images for one would be slow. Where
    pages are as they were encoded (no compression, no dictionary), an image stands in the file byte
    for byte, behind its length. So when a row of a row group is asked for first, it is noted where
    all its images stand, in memory that forked workers share, and they are read from there. Of
    other files the last row groups are kept decoded.

    Raises:
        UserError: a file without this column, or not ``count`` rows in all.
    """

    shards: list[Path]
    column: str

    def __init__(self, shards: list[Path], column: str, count: int) -> None:
        self.shards, self.column = shards, column
        self._stamps = [_stamp(os.stat(shard)) for shard in shards]
        places, counts, self.slow = [], [], 0
        for number, shard in enumerate(shards):
            metadata = pq.read_metadata(shard)
            for group in range(metadata.num_row_groups):
                chunk = _chunk(metadata.row_group(group), column)
                if chunk is None:
                    raise UserError(
                        f"{shard}: has no column {column} of images, as {shards[0].name} has; "
                        "remove it, or write it again"
                    )
                places.append((number, group))
                counts.append(metadata.row_group(group).num_rows)
                if not _is_plain(chunk):
                    self.slow = max(self.slow, counts[-1])
        if min(counts, default=0) < 0 or sum(counts) != count:
            raise UserError(
                f"{shards[0].parent}: {sum(counts):,} rows of {count:,} names; a shard is damaged "
                "or was written meanwhile: run the same command again"
            )
        self._groups = np.array(places, np.int64).reshape(-1, 2)
        self._ends = np.cumsum(np.array(counts, np.int64))
        self._begin()

    def _begin(self) -> None:
        """What each process has of its own, or shares with those that it forks."""
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._places = np.frombuffer(mmap.mmap(-1, max(1, len(self)) * 8), np.int64)

    def __getstate__(self) -> dict[str, Any]:
        own = {"_kept", "_places"}
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def note(self) -> str | None:
        """What there is to say of files in which single images are slow to find."""
        if self.slow <= _SMALL:
            return None
        return (
            f"compressed in groups of up to {self.slow:,}, each decoded anew for one of its images "
            "in random order; `data pack` writes shards that are not"
        )

    def read(self, row: int) -> bytes | None:
        """The bytes in a row; None where there are none.

        Raises:
            OSError, ValueError, pyarrow.ArrowException: the file is damaged, or another one.
        """
        place = int(self._places[row])
        if place == _UNKNOWN:
            group = int(np.searchsorted(self._ends, row, side="right"))
            return self._find(group, row)
        return None if place == _NONE else self._read_at(row, place)

    def _read_at(self, row: int, place: int) -> bytes:
        number, _ = self._groups[np.searchsorted(self._ends, row, side="right")]
        with open(self.shards[number], "rb", buffering=0) as file:
            if _stamp(os.fstat(file.fileno())) != self._stamps[number]:
                raise OSError(0, f"{self.shards[number].name} was changed meanwhile")
            found = os.pread(file.fileno(), _AT_ONCE, place - 4)
            end = 4 + int.from_bytes(found[:4], "little")
            if end > len(found):
                found += os.pread(file.fileno(), end - len(found), place - 4 + len(found))
        if len(found) < end:
            raise OSError(0, f"{self.shards[number].name} is cut short")
        return found[4:end]

    def _find(self, group: int, row: int) -> bytes | None:
        """The bytes in a row of a row group, all of whose places are noted if they can be."""
        first = int(self._ends[group - 1]) if group else 0
        if group not in self._kept:
            number, within = self._groups[group].tolist()
            with pq.ParquetFile(self.shards[number], page_checksum_verification=True) as file:
                chunk = _chunk(file.metadata.row_group(within), self.column)
                if _is_plain(chunk):
                    with open(self.shards[number], "rb") as raw:
                        self._note(raw.fileno(), chunk, self._values(file, within), first)
                    if (place := int(self._places[row])) != _UNKNOWN:
                        return None if place == _NONE else self._read_at(row, place)
                self._keep(group, pa.chunked_array(list(self._values(file, within))))
        self._kept.move_to_end(group)
        return self._kept[group][row - first].as_py()

    def _values(self, file: pq.ParquetFile, group: int) -> Iterator[pa.Array]:
        name, inner = self.column, f"{self.column}.bytes"
        struct = pa.types.is_struct(file.schema_arrow.field(name).type)
        for batch in file.iter_batches(
            _BATCH, row_groups=[group], columns=[inner if struct else name], use_threads=False
        ):
            values = batch.column(0)
            yield pc.struct_field(values, "bytes") if struct else values

    def _note(self, handle: int, chunk: Any, values: Iterator[pa.Array], first: int) -> None:
        """Note where the images of a row group stand, unless one is not there as it is."""
        places: list[int] = []
        end = chunk.data_page_offset + chunk.total_compressed_size
        with mmap.mmap(handle, 0, access=mmap.ACCESS_READ) as content:
            reached = chunk.data_page_offset
            for value in (one for part in values for one in part.to_pylist()):
                if value is None:
                    places.append(_NONE)
                    continue
                found = content.find(len(value).to_bytes(4, "little") + value, reached, end)
                if found < 0:
                    return
                places.append(found + 4)
                reached = found + 4 + len(value)
        self._places[first : first + len(places)] = places

    def _keep(self, group: int, values: pa.ChunkedArray) -> None:
        self._kept[group] = values
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


def _chunk(group: Any, column: str) -> Any:
    """What the metadata of a row group says of the bytes of its images; None if it has none."""
    chunks = (group.column(number) for number in range(group.num_columns))
    names = (column, f"{column}.bytes")
    return next((chunk for chunk in chunks if chunk.path_in_schema in names), None)


def _is_plain(chunk: Any) -> bool:
    return chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
