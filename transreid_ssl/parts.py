"""Long work in parts that are finished one by one, so that a command that was stopped goes on."""

import contextlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, fingerprint
from transreid_ssl.progress import progress
from transreid_ssl.tables import decode_record, encode_record

_STAMPS = 1 << 63  # there are so many different ones
_OF_ALL = 64  # parts of long work: a stop costs a 64th of it
_FEWEST = 256  # images of a part

_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{8})\.parquet")


class Images(Protocol):
    """What is asked of a pool (``data.Pool``)."""

    def __len__(self) -> int: ...

    def stamps(self, places: Sequence[int]) -> np.ndarray:
        """See there."""
        ...


@dataclass(frozen=True)
class Parts:
    """The part files of work on many images, in a folder beside its output.

    Which images a part holds depends on ``size`` alone, so work may go on with another number of
    processes. Every part records ``key``, which stands for all that the result depends on, and
    ``size``, and has the checksum of its bytes (CRC-32) in its name: damage is found before it is
    used. It records the stamps of its images' files as well (``watch``): of images that were
    written anew since, it is made again.
    """

    out: Path
    key: str
    pool: Images
    size: int
    _stamps: dict[int, int] = field(init=False, default_factory=dict, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """``scores.parts`` for ``scores.parquet``."""
        return self.out.with_suffix(".parts")

    def __len__(self) -> int:
        return -(-len(self.pool) // self.size)

    def images(self, part: int) -> range:
        """The positions in the pool that belong to ``part``."""
        return range(part * self.size, min((part + 1) * self.size, len(self.pool)))

    def watch(self, parts: Iterable[int], shown: bool = True) -> None:
        """Look at the files of the images of ``parts``, before they are read.

        Those of parts that ``check`` has looked at are known. Of millions of files it takes half a
        minute on a local disk, and longer over a net: ``shown`` says how far it is.
        """
        unknown = [part for part in parts if part not in self._stamps]
        self._stamps.update(self._look_at(unknown, shown))

    def _look_at(self, parts: Iterable[int], shown: bool = True) -> dict[int, int]:
        """The stamps of the images of each part, with progress where it takes long."""
        ranges = {part: self.images(part) for part in parts}
        found = {}
        with progress(sum(map(len, ranges.values())), "files looked at", shown) as tick:
            for part, places in ranges.items():
                found[part] = self._stamp(places)
                tick(len(places))
        return found

    def stamp_read(self) -> int | None:
        """``stamp_now`` of when the finished parts were begun; None if it is not known of all."""
        finished = self.finished()
        try:
            schemas = [pq.read_schema(finished[part]) for part in range(len(self))]
        except (KeyError, OSError, pa.ArrowException):
            return None  # ``tables`` says what is wrong
        found = [_record(schema).get("stamp") for schema in schemas]
        return None if None in found else sum(found) % _STAMPS

    def stamp_now(self) -> int:
        """A number for when the files of all images were written, and for their sizes."""
        return sum(self._look_at(range(len(self))).values()) % _STAMPS

    def _stamp(self, places: range) -> int:
        """Of some images; those of all parts add up to that of all images."""
        pairs = self.pool.stamps(places).tolist()
        texts = (f"{place} {time} {size}" for place, (time, size) in zip(places, pairs))
        return sum(int(fingerprint([text]), 16) for text in texts) % _STAMPS

    def describe_finished(self, pending: Sequence[int]) -> str:
        """How much was finished before, where anything was and something is ``pending``."""
        left = sum(len(self.images(part)) for part in pending)
        done = len(self.pool) - left
        return f"{done:,} of {len(self.pool):,} images are done already" if done and left else ""

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
        """Remove parts that are damaged or of images that were written anew: a line on each.

        Raises:
            UserError: a part is of other images, weights or settings; ``advice`` says what to do.
        """
        lines, finished = [], self.finished()
        with progress(len(finished), "finished parts looked at") as tick:
            for part, path in finished.items():
                if why := self._unusable(part, path, advice):
                    path.unlink()
                    lines.append(f"{path}: {why}; it is made again")
                tick()
        return lines

    def _unusable(self, part: int, path: Path, advice: str) -> str:
        """Why a finished part has to be made again; "" if it is sound."""
        content = _read(path)
        if content is None:
            return "damaged (its checksum differs)"
        schema = pq.read_schema(pa.BufferReader(content))
        self.require_key(path, schema.metadata, advice)
        return self._outdated(part, _record(schema))

    def _outdated(self, part: int, record: dict[str, Any]) -> str:
        """Why a part is not of the images of now, if it is not; older versions do not say."""
        written = record.get("stamp")
        if written is None:
            return ""
        self._stamps[part] = self._stamp(self.images(part))
        return "" if written == self._stamps[part] else "its images were written anew since"

    def require_key(self, path: Path, metadata: dict[bytes, bytes] | None, advice: str) -> None:
        """Raise ``UserError`` unless a table with this metadata belongs to this work."""
        if decode_record(metadata).get("key") != self._part_key:
            raise UserError(f"{path}: is of other images, weights or settings; {advice}")

    @property
    def _part_key(self) -> str:
        return f"{self.key} by {self.size}"

    def write(self, part: int, columns: dict[str, pa.Array]) -> None:
        """Write a finished part."""
        said = {"stamp": self._stamps[part]} if part in self._stamps else {}
        record = encode_record({"key": self._part_key} | said)
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


def _record(schema: pa.Schema) -> dict[str, Any]:
    return decode_record(schema.metadata)


def _crc(content: bytes | pa.Buffer) -> str:
    return f"{zlib.crc32(content):08x}"


def part_size(num_images: int, most: int) -> int:
    """Images in a part: few in a small pool, so that work that is stopped early is kept too."""
    return min(most, -(-num_images // (_OF_ALL * _FEWEST)) * _FEWEST)


def rows(values: np.ndarray) -> pa.FixedSizeListArray:
    """float32 (N, D) as a column of lists of D values."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
