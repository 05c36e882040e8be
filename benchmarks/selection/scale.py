"""All of LUPerson, as made-up features, scored and selected from: seconds and peak memory.

    python -m benchmarks.selection.scale                       # 4,180,243 rows of 384 values
    python -m benchmarks.selection.scale --rows 100000 --methods density-ratio

Rows are made block by block, as a network would give them, and are not kept; their making is not
timed. Memory is the most that the process has held so far. Each method learns from a sample of
target and pool, scores all rows, and half of them are selected with no folder above a twentieth.
Near-duplicates are looked for only with ``--near_duplicates``: that takes the features on disk,
6.4 GB of them.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.reporting import finish, heading, peak_memory_mb, row
from benchmarks.scaling import timed
from transreid_ssl.cfs import Diversity, select
from transreid_ssl.cfs.likeness import LIKENESSES, halves
from transreid_ssl.cfs.order import without_near_duplicates
from transreid_ssl.tables import write_table

_BLOCK = 16_384
_FOLDERS = 200


def blocks(rows: int, dim: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Unit features float32 (B, dim); a fifth of them lies a little towards the target."""
    for start in range(0, rows, _BLOCK):
        yield features(min(_BLOCK, rows - start), dim, 0.2, (seed, start))


def features(count: int, dim: int, share: float, seed: Sequence[int]) -> np.ndarray:
    """Unit features float32 (count, dim), of which a ``share`` is like the target."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim), np.float32)
    rows[rng.random(count) < share, :8] += 1.5
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def score_all(method: str, options: argparse.Namespace) -> tuple[float, float, np.ndarray]:
    """Seconds of learning and of scoring, and the scores float32 (N,)."""
    target = features(options.sample, options.dim, 1.0, (1,))
    pool = features(options.sample, options.dim, 0.2, (2,))
    half = halves(options.sample, 0)
    learning, likeness = timed(LIKENESSES[method], (target, half, pool, half))
    half, scores, scoring = torch.from_numpy(halves(options.rows, 1)), [], 0.0
    for found in blocks(options.rows, options.dim):
        start = _BLOCK * len(scores)
        own = half[start : start + len(found)]
        seconds, block = timed(_scored, (likeness, found, own))
        scores.append(block)
        scoring += seconds
    return learning, scoring, np.concatenate(scores)


@torch.inference_mode()
def _scored(likeness: torch.nn.Module, rows: np.ndarray, half: Tensor) -> np.ndarray:
    return likeness(torch.from_numpy(rows), half).numpy()


def select_all(scores: np.ndarray, folder: Path) -> float:
    """Seconds of selecting half of a table on disk."""
    numbers = np.arange(len(scores))
    names = [f"video_{n % _FOLDERS:03d}/{n:08d}.jpg" for n in numbers.tolist()]
    columns = {"image": pa.array(names), "score": scores}
    write_table(folder / "scores.parquet", columns, {"method": "made-up"})
    del names, columns
    bounds = Diversity(max_source=0.05)
    paths = folder / "scores.parquet", 0.5, folder / "kept.parquet"
    return timed(partial(select, diversity=bounds), paths)[0]


def near_duplicates(options: argparse.Namespace, folder: Path) -> tuple[float, int]:
    """Seconds of looking for near-duplicates, and how many there are; one row in 100 is one."""
    path, repeated = folder / "features.f32", options.rows // 100
    with open(path, "wb") as file:
        for found in blocks(options.rows - repeated, options.dim):
            found.tofile(file)
    first = np.fromfile(path, np.float32, repeated * options.dim)
    with open(path, "ab") as file:
        first.tofile(file)
    mapped = np.memmap(path, np.float32, "r", shape=(options.rows, options.dim))
    order = np.arange(options.rows)
    seconds, left = timed(without_near_duplicates, (order, mapped, order, 0.98))
    return seconds, options.rows - len(left)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4_180_243)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--sample", type=int, default=20_000, help="rows of either to learn from")
    parser.add_argument("--methods", nargs="+", choices=list(LIKENESSES), default=list(LIKENESSES))
    parser.add_argument("--near_duplicates", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines, runs = heading("method", "learning s", "scoring s", "rows a second", "peak MB"), {}
    for method in options.methods:
        learning, scoring, scores = score_all(method, options)
        rate = options.rows / scoring
        cells = f"{learning:.1f}", f"{scoring:.1f}", f"{rate:,.0f}", f"{peak_memory_mb():,.0f}"
        lines.append(row(method, *cells))
        runs[method] = {"learning": round(learning, 2), "scoring": round(scoring, 2)}
        print(lines[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs["select"] = round(select_all(scores, Path(folder)), 2)
        lines.append(row("select half, bounded", "–", f"{runs['select']:.1f}", "–", "–"))
        if options.near_duplicates:
            seconds, found = near_duplicates(options, Path(folder))
            runs["near_duplicates"] = {"seconds": round(seconds, 2), "found": found}
            lines.append(row(f"near-duplicates: {found:,}", "–", f"{seconds:.1f}", "–", "–"))
    print("\n" + "\n".join(lines))
    finish(
        None, benchmark="selection at scale", rows=options.rows, dim=options.dim,
        sample=options.sample, threads=options.threads, peak_mb=round(peak_memory_mb()), runs=runs,
    )  # fmt: skip


if __name__ == "__main__":
    main()
