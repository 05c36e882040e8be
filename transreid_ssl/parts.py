"""Long work in parts that are finished one by one, so that a command that was stopped goes on."""

import contextlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path
from transreid_ssl.tables import decode_record, encode_record

_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{8})\.parquet")


@dataclass(frozen=True)
class Parts:
    """The part files of work on many images, in a folder beside its output.

    Which images a part holds depends on ``size`` alone, so work may go on with another number of
    processes. Every part records ``key``, which stands for all that the result depends on, and has
    the checksum of its bytes (CRC-32) in its name: damage is found before it is used.
    """

    out: Path
    key: str
    num_images: int
    size: int

    @property
    def folder(self) -> Path:
        """``scores.parts`` for ``scores.parquet``."""
        return self.out.with_suffix(".parts")

    def __len__(self) -> int:
        return -(-self.num_images // self.size)

    def images(self, part: int) -> range:
        """The positions in the pool that belong to ``part``."""
        return range(part * self.size, min((part + 1) * self.size, self.num_images))

    def finished(self) -> dict[int, Path]:
        """The parts that are written, and where."""
        found = sorted(self.folder.glob("part-*.parquet"))
        named = [(match, path) for path in found if (match := _NAME.fullmatch(path.name))]
        return {int(match[1]): path for match, path in named}

    def pending(self) -> list[int]:
        """The parts that are not finished, in order."""
        finished = self.finished()
        return [part for part in range(len(self)) if part not in finished]

    def check(self, advice: str) -> list[str]:
        """Remove the parts that are damaged, to be made again; returns a line on each.

        Raises:
            UserError: a part is of other images, weights or settings; ``advice`` says what to do.
        """
        lines = []
        for path in self.finished().values():
            content = _read(path)
            if content is None:
                path.unlink()
                lines.append(f"{path}: damaged (its checksum differs); it is made again")
                continue
            self.require_key(path, pq.read_schema(pa.BufferReader(content)).metadata, advice)
        return lines

    def require_key(self, path: Path, metadata: dict[bytes, bytes] | None, advice: str) -> None:
        """Raise ``UserError`` unless a table with this metadata belongs to this work."""
        if decode_record(metadata).get("key") != self.key:
            raise UserError(f"{path}: is of other images, weights or settings; {advice}")

    def write(self, part: int, columns: dict[str, pa.Array]) -> None:
        """Write a finished part."""
        record = encode_record({"key": self.key})
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns).replace_schema_metadata(record), buffer)
        content = buffer.getvalue()
        with atomic_path(self.folder / f"part-{part:06d}-{_crc(content)}.parquet") as temporary:
            temporary.write_bytes(content)

    def tables(self) -> Iterator[pa.Table]:
        """All parts in order, one in memory at a time.

        Raises:
            UserError: one is missing, or was damaged since ``check``.
        """
        finished = self.finished()
        for part in range(len(self)):
            if part not in finished:
                raise UserError(
                    f"{self.folder}: part {part} is not there; another process wrote it where this "
                    "one cannot see it: put --out on storage that all processes share"
                )
            content = _read(finished[part])
            if content is None:
                raise UserError(
                    f"{finished[part]}: damaged (its checksum differs); run the same command "
                    "again, which makes it again"
                )
            yield pq.read_table(pa.BufferReader(content))

    def remove(self) -> None:
        """Remove the parts, and their folder if nothing else is in it."""
        for path in self.finished().values():
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def _read(path: Path) -> bytes | None:
    """The bytes of a part, or None if they are not those that were written."""
    try:
        content = path.read_bytes()
    except OSError:  # a disk that cannot give them back
        return None
    return content if _NAME.fullmatch(path.name)[2] == _crc(content) else None


def _crc(content: bytes | pa.Buffer) -> str:
    return f"{zlib.crc32(content):08x}"


def rows(values: np.ndarray) -> pa.FixedSizeListArray:
    """float32 (N, D) as a column of lists of D values."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
