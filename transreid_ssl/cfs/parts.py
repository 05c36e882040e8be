"""Scoring in parts: shards of the pool, finished one by one, so that a stopped run goes on."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, write_text
from transreid_ssl.tables import encode_record, read_record, write_table

_SCHEMA = pa.schema({"image": pa.string(), "cfs": pa.float32()})


@dataclass(frozen=True)
class Parts:
    """The part files of one scoring run, in a folder beside its output.

    Which images a part holds depends on ``size`` alone, so a run may go on with another number of
    processes. Every part records ``key``, which stands for the pool, the networks and the settings.
    """

    out: Path
    key: str
    num_images: int
    size: int

    @property
    def folder(self) -> Path:
        """``scores.parts`` for ``scores.parquet``."""
        return self.out.with_suffix(".parts")

    @property
    def corrupt_path(self) -> Path:
        """The list of unreadable images."""
        return self.out.with_suffix(".corrupt.txt")

    def __len__(self) -> int:
        return -(-self.num_images // self.size)

    def images(self, part: int) -> range:
        """The positions in the pool that belong to ``part``."""
        return range(part * self.size, min((part + 1) * self.size, self.num_images))

    def path(self, part: int) -> Path:
        """Where ``part`` is written when it is finished."""
        return self.folder / f"part-{part:06d}.parquet"

    def is_done(self) -> bool:
        """Whether the merged table is there already.

        Raises:
            UserError: it, or a part, belongs to another pool, other networks or other settings.
        """
        for path in (self.out, *sorted(self.folder.glob("part-*.parquet"))):
            if path.is_file() and read_record(path).get("key") != self.key:
                raise UserError(
                    f"{path}: belongs to another scoring (other pool, weights or settings); "
                    "use --overwrite true to throw it away, or another --out"
                )
        return self.out.is_file()

    def pending(self) -> list[int]:
        """The parts that are not finished, in order."""
        return [part for part in range(len(self)) if not self.path(part).is_file()]

    def discard(self) -> None:
        """Remove the parts and the merged table."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.out.unlink(missing_ok=True)
        self.corrupt_path.unlink(missing_ok=True)

    def write(self, part: int, names: list[str], cfs: np.ndarray, problems: list[str]) -> None:
        """Write a finished part: ``cfs`` float32 (N,); ``problems`` is "" for a readable image."""
        bad = np.array([bool(problem) for problem in problems])
        columns = {
            "image": pa.array(names, pa.string()),
            "cfs": pa.array(cfs, pa.float32(), mask=bad),
            "problem": pa.array(problems, pa.string(), mask=~bad),
        }
        write_table(self.path(part), columns, {"key": self.key})

    def merge(self, record: dict[str, Any], max_bad_fraction: float) -> None:
        """Join all parts into the table of scores, one in memory at a time, and remove them.

        Raises:
            UserError: a part is missing, or too many images could not be read.
        """
        problems: list[str] = []
        schema = _SCHEMA.with_metadata(encode_record({**record, "key": self.key}))
        with atomic_path(self.out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for table in self._tables():
                bad = table.filter(table["problem"].is_valid())
                problems += [f"{r['image']}\t{r['problem']}" for r in bad.to_pylist()]
                writer.write_table(
                    table.select(_SCHEMA.names).replace_schema_metadata(schema.metadata)
                )
            if problems:
                write_text(self.corrupt_path, "\n".join(problems) + "\n")
            self.check_bad(len(problems), max_bad_fraction)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tables(self) -> Iterator[pa.Table]:
        for part in range(len(self)):
            path = self.path(part)
            if not path.is_file():
                raise UserError(
                    f"{path}: another process wrote it where this one cannot see it; "
                    "put --out on storage that all processes share"
                )
            yield pq.read_table(path)

    def check_bad(self, bad: int, max_bad_fraction: float) -> None:
        """Raise ``UserError`` when more images are unreadable than ``max_bad_fraction`` allows."""
        if bad > max_bad_fraction * self.num_images:
            where = f" (listed in {self.corrupt_path})" if self.corrupt_path.is_file() else ""
            raise UserError(
                f"{bad} of {self.num_images} images cannot be read{where}, more than "
                f"--max_bad_fraction {max_bad_fraction:g}: repair the pool or raise the limit"
            )
