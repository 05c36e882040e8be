"""Several runs on one page: the settings in which they differ, their figures, their curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transreid_ssl.report.charts import Charts
from transreid_ssl.report.page import write_page
from transreid_ssl.report.runs import Run
from transreid_ssl.report.sections import TITLES
from transreid_ssl.training.clock import duration
from transreid_ssl.training.curves import BASELINES, title_of

_SHARED = {"run.output", "run.overwrite"}
"""Settings that differ between all runs and say nothing."""
_OVERLAID = ("loss", "lr", "feature_spread")


def write_comparison(path: str | Path, folders: Sequence[str | Path]) -> Path:
    """Write a page of several runs.

    Raises:
        UserError: one of them is not the folder of a run, or the page cannot be written.
    """
    runs = [Run(folder) for folder in folders]
    names = _names(runs)
    return write_page(
        path, "compare.html",
        title=f"{len(runs)} runs", names=names,
        differing=differing(runs), figures=_figures(runs, names), charts=_charts(runs, names),
    )  # fmt: skip


def differing(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """The settings that are not the same in all runs, with their values in each."""
    known = dict.fromkeys(name for run in runs for name in run.settings)
    rows = [(name, [run.settings.get(name) for run in runs]) for name in known]
    return [
        (name, values)
        for name, values in rows
        if name not in _SHARED and any(value != values[0] for value in values)
    ]


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of folders, and paths where several folders have one name."""
    short = [run.name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]


def _figures(runs: Sequence[Run], names: Sequence[str]) -> dict[str, Any]:
    """A row a run: its name, its length, and figures before and after, time and rate."""
    probed = [name for name in TITLES if any(run.first_last(f"probe/{name}") for run in runs)]
    titles = [f"{TITLES[name]} {when} %" for name in probed for when in ("before", "after")]
    rows = []
    for name, run in zip(names, runs):
        pairs = [run.first_last(f"probe/{figure}") or (None, None) for figure in probed]
        rate = run.series("images_per_second")[1]
        shown = [None if value is None else f"{value:.1f}" for pair in pairs for value in pair]
        shown += [duration(run.seconds()) if run.seconds() else None]
        shown += [f"{np.median(rate):,.1f}" if rate else None]
        rows.append((name, run.progress.describe(), shown))
    return {
        "titles": [*titles, "time of training", "images a second"], "rows": rows,
        "finished": all(run.progress.is_finished for run in runs),
        "unlike": any(len(_ends(runs, f"probe/{name}_histogram")) > 1 for name in probed),
        "in_sample": [name for name, run in zip(names, runs) if _is_in_sample(run)],
    }  # fmt: skip


def _charts(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, Any]]:
    """Curves of all runs over one another: of what is probed, and of losses and rates."""
    charts, drawn = Charts(), []
    series = [*(f"probe/{name}" for name in TITLES), *_OVERLAID]
    for name in series:
        lines = {title: run.series(name) for title, run in zip(names, runs)}
        lines = {title: line for title, line in lines.items() if line[0]}
        if not lines:
            continue
        plain = name.removeprefix("probe/")
        heading = f"{TITLES[plain]} (%)" if plain in TITLES else title_of(plain)
        baselines = _baselines(runs, name) if plain in TITLES else {}
        words = {"xlabel": "step"} | ({"yscale": "log"} if name == "lr" else {})
        drawn.append((
            heading,
            charts.lines(
                f"{heading} of {len(lines)} runs by step", lines | baselines,
                dotted=list(baselines), **words,
            ),
        ))  # fmt: skip
    return drawn


def _baselines(runs: Sequence[Run], name: str) -> dict[str, tuple[list[int], list[float]]]:
    """What all runs have to beat, where it is the same for all: they look at the same images."""
    found = {}
    end = max(run.metrics[-1]["step"] for run in runs if run.metrics)
    for key, title in BASELINES.items():
        values = _ends(runs, f"{name}_{key}")
        if len(values) == 1:
            found[title] = ([0, end], [*values] * 2)
    return found


def _ends(runs: Sequence[Run], name: str) -> set[float]:
    """The last values of a series: one where all runs end with the same."""
    return {pair[-1] for run in runs if (pair := run.first_last(name))}


def _is_in_sample(run: Run) -> bool:
    """Whether its last probe looked at images that it was trained on."""
    titles = [line["probe/on"] for line in run.metrics if "probe/on" in line]
    return bool(titles) and titles[-1].endswith(", in-sample")
