"""Scoring in parts: the scores of a shard of the pool, and all of them joined."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, write_text
from transreid_ssl.outputs import ANEW
from transreid_ssl.parts import Parts
from transreid_ssl.tables import encode_record, read_record
from transreid_ssl.words import part_of

_ADVICE = "for another scoring use --overwrite true to throw it away, or another --out"


@dataclass(frozen=True)
class ScoreParts(Parts):
    """The parts of one scoring run, whose scores are in ``column``."""

    column: str = "cfs"

    @property
    def corrupt_path(self) -> Path:
        """The list of unreadable images."""
        return corrupt_path(self.out)

    def is_done(self) -> bool:
        """Whether the merged table is there already.

        Raises:
            UserError: it belongs to another pool, other networks or other settings.
        """
        if not self.out.is_file():
            return False
        known = read_record(self.out)
        if known.get("key") != self.key:
            raise UserError(
                f"{self.out}: is of other images, weights or settings"
                f"{self.differences(known.get('made'))}; {_ADVICE}"
            )
        if not self.is_of_now(known):
            raise UserError(f"{self.out}: is {ANEW}; {_ADVICE}")
        return True

    def sweep(self) -> list[str]:
        """Remove parts that are damaged or of images written anew; a line on each.

        Without what was learnt all are removed: it will be learnt otherwise.
        """
        learnt = self.finished().get(len(self))
        lines = self.check(_ADVICE)
        if learnt and not learnt.exists() and self.finished():
            self.remove()
            lines.append(f"{self.folder}: all is scored again, by what is learnt again")
        return lines

    def images(self, part: int) -> range:
        """As of any parts; all images belong to the last, which holds what was learnt of them."""
        return range(len(self.pool)) if part == len(self) else super().images(part)

    def discard(self) -> None:
        """Remove the parts and the merged table.

        Raises:
            UserError: what is there is no table of scores.
        """
        if self.out.is_file() and "key" not in read_record(self.out):
            raise UserError(f"{self.out}: is no table of scores; give another --out")
        self.remove()
        self.out.unlink(missing_ok=True)
        self.corrupt_path.unlink(missing_ok=True)

    def write_scores(
        self, part: int, names: list[str], scores: np.ndarray, problems: list[str]
    ) -> None:
        """Write a finished part: float32 (N,); ``problems`` is "" for a readable image."""
        bad = np.array([bool(problem) for problem in problems])
        columns = {
            "image": pa.array(names, pa.string()),
            self.column: pa.array(scores, pa.float32(), mask=bad),
            "problem": pa.array(problems, pa.string(), mask=~bad),
        }
        self.write(part, columns)

    def write_learnt(self, state: dict[str, np.ndarray]) -> None:
        """Write what a scorer has learnt as one more part, so that a relaunch need not learn anew.

        It would not learn the same to the last digit with other batches or processes.
        """
        before, known = self.finished().get(len(self)), self.learnt()
        same = state.keys() == known.keys() and all(
            np.array_equal(value, known[name]) for name, value in state.items()
        )
        if not same:
            values = [np.asarray(value) for value in state.values()]
            columns = {
                "name": pa.array(list(state)),
                "dtype": pa.array([str(value.dtype) for value in values]),
                "shape": pa.array([list(value.shape) for value in values], pa.list_(pa.int64())),
                "bytes": pa.array([value.tobytes() for value in values], pa.large_binary()),
            }
            if before is not None:  # of fewer things, or judged by another target
                before.unlink()
            self.write(len(self), columns)

    def learnt(self) -> dict[str, np.ndarray]:
        """What ``write_learnt`` wrote; empty where it did not."""
        path = self.finished().get(len(self))
        if path is None:
            return {}
        return {
            row["name"]: np.frombuffer(row["bytes"], row["dtype"]).reshape(row["shape"]).copy()
            for row in pq.read_table(path).to_pylist()
        }

    def scores(self) -> np.ndarray:
        """All scores float32 (N,), NaN for an image that could not be read."""
        columns = [table[self.column].to_numpy() for table in self.tables()]
        return np.concatenate(columns).astype(np.float32)

    def merge(self, record: dict[str, Any], max_bad_fraction: float) -> None:
        """Join all parts into the table of scores, one in memory at a time, and remove them.

        Raises:
            UserError: a part is missing or damaged, or too many images could not be read.
        """
        problems: list[str] = []
        schema = pa.schema(
            {"image": pa.string(), self.column: pa.float32()},
            encode_record({**record, "key": self.key, "made": dict(self.made)} | self.seen()),
        )
        with atomic_path(self.out) as temporary, _writer(temporary, schema) as writer:
            for table in self.tables():
                bad = table.filter(table["problem"].is_valid())
                problems += [f"{r['image']}\t{r['problem']}" for r in bad.to_pylist()]
                writer.write_table(
                    table.select(schema.names).replace_schema_metadata(schema.metadata)
                )
            if problems:
                write_text(self.corrupt_path, "\n".join(problems) + "\n")
            self.check_bad(len(problems), max_bad_fraction)
        self.remove()

    def check_bad(self, bad: int, max_bad_fraction: float) -> None:
        """Raise ``UserError`` when more images are unreadable than ``max_bad_fraction`` allows."""
        if bad > max_bad_fraction * len(self.pool):
            where = f" (listed in {self.corrupt_path})" if self.corrupt_path.is_file() else ""
            raise UserError(
                f"{part_of(bad, len(self.pool), 'image')} cannot be read{where}, more than "
                f"--max_bad_fraction {max_bad_fraction:g}: repair the pool or raise the limit"
            )


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, write_page_checksum=True)


def corrupt_path(out: Path) -> Path:
    """Where the unreadable images of a scoring are listed."""
    return out.with_suffix(".corrupt.txt")


def is_corrupt_list(path: Path) -> bool:
    """Whether a file is such a list: a name, a tab and a reason in every line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return all("\t" in line for line in lines)
