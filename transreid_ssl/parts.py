"""Long work in parts that are finished one by one, so that a command that was stopped goes on."""

import contextlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path
from transreid_ssl.logs import RUN
from transreid_ssl.progress import is_first, progress
from transreid_ssl.seen import Images, Seen, content_of, sampled
from transreid_ssl.tables import decode_record, encode_record
from transreid_ssl.words import part_of

_OF_ALL = 64  # parts of long work: a stop costs a 64th of it
_FEWEST = 256  # images of a part

_COPIED = (
    "its images' files have other times than then; the sizes, and the bytes of some, are those of "
    "then: they are taken for copies"
)
_DIGEST = re.compile("[0-9a-f]{16,}")  # tells nobody anything
_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{8})\.parquet")


@dataclass(frozen=True)
class Parts:
    """The part files of work on many images, in a folder beside its output.

    Which images a part holds depends on ``size`` alone, so work may go on with another number of
    processes. Every part records ``key``, which stands for all that the result depends on, and
    ``size``, and has the checksum of its bytes (CRC-32) in its name: damage is found before it is
    used. It records how its images' files were as well (``watch``): of images that were written
    anew since, it is made again; copies of them, with other times, are taken for them.

    Args:
        made: What ``key`` stands for, by its names, to say what other work differs in.
    """

    out: Path
    key: str
    pool: Images
    size: int
    made: Mapping[str, str] = field(default_factory=dict)
    _seen: dict[int, Seen] = field(init=False, default_factory=dict, compare=False, repr=False)
    _copies: dict[int, Seen] = field(init=False, default_factory=dict, compare=False, repr=False)

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
        self._seen.update(self._look_at([n for n in parts if n not in self._seen], shown))

    def _look_at(self, parts: Iterable[int], shown: bool = True) -> dict[int, Seen]:
        """How the files of the images of each part are, with progress where it takes long."""
        ranges = {part: self.images(part) for part in parts}
        found = {}
        with progress(sum(map(len, ranges.values())), "files looked at", shown) as tick:
            for part, places in ranges.items():
                found[part] = Seen.of(self.pool, places)
                tick(len(places))
        return found

    def _contents(self, parts: Iterable[int], shown: bool = True) -> Iterator[int]:
        """``Seen.content`` of each part, with progress where it takes long."""
        ranges = [self.images(part) for part in parts]
        count = sum(len(sampled(self.pool, places)) for places in ranges)
        with progress(count, "images read that copies are known by", shown) as tick:
            for places in ranges:
                yield content_of(self.pool, places, tick)

    def seen(self) -> dict[str, Any]:
        """For the record of a result: how the files were when its parts were begun.

        Or when they were found to be copies of those; {} if it is not known of all.
        """
        finished = self.finished()
        try:
            schemas = [pq.read_schema(finished[part]) for part in range(len(self))]
        except (KeyError, OSError, pa.ArrowException):
            return {}  # ``tables`` says what is wrong
        read = [Seen.of_record(_record(schema)) for schema in schemas]
        if None in read:
            return {}
        return Seen.sum(self._copies.get(n, known) for n, known in enumerate(read)).to_record()

    def is_of_now(self, record: Mapping[str, Any]) -> bool:
        """Whether a result with this record is of the images as they are; copies of them are."""
        before = Seen.of_record(record)
        if before is None:  # older versions do not say
            return True
        parts = range(len(self))
        now = Seen.sum(self._look_at(parts).values())
        if before.stamp == now.stamp:
            return True
        if not before.may_be_copied(now):
            return False
        if before.content != sum(self._contents(parts)):
            return False
        RUN.info(f"{self.out}: {_COPIED}")
        return True

    def describe_finished(self, pending: Sequence[int]) -> str:
        """How much was finished before, where anything was and something is ``pending``."""
        left = sum(len(self.images(part)) for part in pending)
        done = len(self.pool) - left
        said = part_of(done, len(self.pool), "image", verb="is/are")
        return f"{said} done already" if done and left else ""

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
        if self._copies:
            lines.append(f"{self.folder}: {_COPIED}")
        return lines

    def _unusable(self, part: int, path: Path, advice: str) -> str:
        """Why a finished part has to be made again; "" if it is sound."""
        content = _read(path)
        if content is None:
            return "damaged (its checksum differs)"
        schema = pq.read_schema(pa.BufferReader(content))
        self.require_key(schema.metadata, advice)
        return self._outdated(part, Seen.of_record(_record(schema)))

    def _outdated(self, part: int, before: Seen | None) -> str:
        """Why a part is not of the images of now, if it is not; older versions do not say."""
        if before is None:
            return ""
        places = self.images(part)
        self._seen[part] = now = Seen.of(self.pool, places)
        if before.stamp == now.stamp:
            return ""
        if before.may_be_copied(now) and before.content == content_of(self.pool, places):
            self._copies[part] = replace(now, content=before.content)
            return ""
        return "its images were written anew since"

    def require_key(self, metadata: dict[bytes, bytes] | None, advice: str) -> None:
        """Raise ``UserError`` unless a part with this metadata belongs to this work."""
        known = decode_record(metadata)
        if known.get("key") != self._part_key:
            raise UserError(
                f"{self.folder}: what is finished there of work that was stopped is of other "
                f"images, weights or settings{self.differences(known.get('made'))}; {advice}"
            )

    def differences(self, made: Mapping[str, str] | None) -> str:
        """In brackets, in what a part or a result that was ``made`` so differs from this work."""
        if made is None:
            return " (which of them, an older version has not noted)"
        differ = [name for name in {**made, **self.made} if made.get(name) != self.made.get(name)]
        said = [_change(name, made.get(name), self.made.get(name)) for name in differ]
        return f" ({', '.join(said)})" if said else " (in the size of the parts)"

    @property
    def _part_key(self) -> str:
        return f"{self.key} by {self.size}"

    def write(self, part: int, columns: dict[str, pa.Array]) -> None:
        """Write a finished part.

        The images that copies of them are known by are read here, as they were just read for the
        work and need not come from the disk again.
        """
        said = {}
        if seen := self._seen.get(part):
            (content,) = self._contents([part], shown=is_first())
            said = replace(seen, content=content).to_record()
        record = encode_record({"key": self._part_key, "made": dict(self.made)} | said)
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


def _change(name: str, before: str | None, now: str | None) -> str:
    """One thing that differs, with both values where they can be read."""
    if any(_DIGEST.fullmatch(value) for value in (before or "", now or "")):
        return f"other {name}"
    return f"{name} {before} there, {now} now"


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
