"""Time and peak memory against size, ours beside a plain dense routine: table, picture, last line.

Every measurement has a process of its own, so that its peak memory is its own: the most that was
resident from the start of Python to the end. Libraries and the making of the inputs are included;
``before_mb`` says how much was reached with them alone.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.reporting import finish, peak_memory_mb


@dataclass(frozen=True)
class Measurement:
    """Seconds and peak memory, 10^6 bytes, of one call (and before it), and what it returned."""

    seconds: float
    peak_mb: float
    before_mb: float
    answer: Any


@dataclass(frozen=True)
class Comparison:
    """One benchmark: two routines that should agree, and how their inputs are made.

    Attributes:
        name: of the benchmark.
        inputs: from the numbers of a size and the dimension of the features to the arguments of
            both routines.
        ours, plain: the routines.
        check: raises where the answers of both disagree.
        unit: what a size counts.
    """

    name: str
    inputs: Callable[..., tuple]
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    check: Callable[[Any, Any], None]
    unit: str


Size = tuple[int, ...]
Row = tuple[Size, Measurement, Measurement | None]


def run(comparison: Comparison, doc: str, sizes: Sequence[str], plain_limit: int, dim: int) -> None:
    """Read the command line, whose defaults are given, measure every size and tell the outcome.

    ``ratio`` is plain time over ours at the largest size that both were measured at.
    """
    options = _options(doc, sizes, plain_limit, dim)
    load = os.getloadavg()[0]
    rows: list[Row] = []
    for size in options.sizes:
        routines = [comparison.ours]
        if size[-1] <= options.plain_limit:
            routines.append(comparison.plain)
        found = [_best(routine, comparison.inputs, size, options) for routine in routines]
        if len(found) == 2:
            comparison.check(found[0].answer, found[1].answer)
        rows.append((size, found[0], found[1] if len(found) == 2 else None))
        print(f"{_named(size)} {comparison.unit}: {_told(found)}", flush=True)
    picture = options.out / f"{comparison.name}.png"
    _draw(rows, picture, f"{comparison.name}, {options.dim}-d features, threads: {options.threads}")
    print(f"\n{_table(rows, comparison.unit)}\n\n{picture}")
    compared = [row for row in rows if row[2] is not None]
    ratio = compared[-1][2].seconds / compared[-1][1].seconds if compared else None
    finish(
        ratio,
        **{"benchmark": comparison.name, "dim": options.dim, "threads": options.threads},
        **{"compared": _named(compared[-1][0]) if compared else None},
        **{"runs": [_figures(row) for row in rows], "load": round(load, 2)},
    )


def timed(function: Callable[..., Any], arguments: tuple) -> tuple[float, Any]:
    """Seconds of one call, and what it returned.

    With one thread they are seconds of this process, which other programs disturb little.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    result = function(*arguments)
    return clock() - begin, result


def measured(routine: Callable, inputs: Callable, numbers: Size, threads: int) -> Measurement:
    """Make the inputs and call the routine on them, in a new process.

    It imports everything again: libraries that a forked process shares would not all be counted.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, routine, inputs, numbers, threads).result()


def _measure(routine: Callable, inputs: Callable, numbers: Size, threads: int) -> Measurement:
    torch.set_num_threads(threads)
    arguments = inputs(*numbers)
    before = peak_memory_mb()
    seconds, answer = timed(routine, arguments)
    return Measurement(seconds, peak_memory_mb(), before, answer)


def _best(
    routine: Callable, inputs: Callable, size: Size, options: argparse.Namespace
) -> Measurement:
    """The fastest of some rounds."""
    numbers = (*size, options.dim)
    rounds = [measured(routine, inputs, numbers, options.threads) for _ in range(options.rounds)]
    return min(rounds, key=lambda one: one.seconds)


def _options(doc: str, sizes: Sequence[str], plain_limit: int, dim: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [_size(text) for text in sizes]
    parser.add_argument("--sizes", type=_size, nargs="+", default=default, help="smallest first")
    parser.add_argument(
        "--plain-limit", type=int, default=plain_limit,
        help="the largest size, its last number, that the plain routine is measured at",
    )  # fmt: skip
    parser.add_argument("--dim", type=int, default=dim, help="values of a feature")
    parser.add_argument("--threads", type=int, default=1, help="with one, times are CPU time")
    parser.add_argument("--rounds", type=int, default=1, help="the fastest of them counts")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    return parser.parse_args()


def _size(text: str) -> Size:
    """``8000`` or ``3368x15913``."""
    return tuple(int(part) for part in text.split("x"))


def _named(size: Size) -> str:
    return " x ".join(f"{count:,}" for count in size)


def _told(found: Sequence[Measurement]) -> str:
    parts = [
        f"{m.seconds:.2f} s, {m.peak_mb:,.0f} MB ({m.before_mb:,.0f} before the call)"
        for m in found
    ]
    return "; plain ".join(parts) + (", both agree" if len(parts) == 2 else "")


def _figures(row: Row) -> dict[str, Any]:
    size, ours, plain = row
    figures = {"size": list(size), "seconds": round(ours.seconds, 3)}
    figures |= {"peak_mb": round(ours.peak_mb), "before_mb": round(ours.before_mb)}
    if plain is not None:
        figures |= {"plain_seconds": round(plain.seconds, 3), "plain_peak_mb": round(plain.peak_mb)}
    return figures


def _table(rows: Sequence[Row], unit: str) -> str:
    """Markdown."""
    lines = [f"| {unit} | s | MB | plain: s | plain: MB | times as fast |", "|---|" + "---:|" * 5]
    for size, ours, plain in rows:
        cells = [_named(size), f"{ours.seconds:.2f}", f"{ours.peak_mb:,.0f}", "–", "–", "–"]
        if plain is not None:
            ratio = plain.seconds / ours.seconds
            cells[3:] = f"{plain.seconds:.2f}", f"{plain.peak_mb:,.0f}", f"{ratio:.1f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Two panels against the last number of the sizes: seconds and memory."""
    from matplotlib.figure import Figure  # not in the processes that are measured

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name, label in zip(axes, ("seconds", "peak_mb"), ("seconds", "peak memory (MB)")):
        for which, style in ((1, "o-"), (2, "s--")):
            points = [(row[0][-1], getattr(row[which], name)) for row in rows if row[which]]
            if points:
                axis.plot(*zip(*points), style, label=("ours", "plain dense")[which - 1], ms=4)
        axis.set(xscale="log", xlabel="N", ylabel=label)
        counts = [row[0][-1] for row in rows]
        axis.set_xticks(counts, [f"{count:,}" for count in counts], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
