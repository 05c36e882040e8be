"""What ``benchmarks.objectives`` has measured, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.reporting import hardware
from transreid_ssl.training.config import as_plain, software

Cell = dict[str, Any]
COLUMNS = {
    "direct": "direct mAP %",
    "direct_rank1": "direct rank-1 %",
    "finetuned": "fine-tuned mAP %",
    "finetuned_rank1": "fine-tuned rank-1 %",
}
BASELINES = {"histogram": "colour histogram", "chance": "chance"}
CHOSEN = (
    "A part of the labels, about as many steps. The best row above was chosen on the same people."
)
GENERATED = "On generated people: the figures say nothing about real cameras."


@dataclass
class Results:
    """What was measured.

    Attributes:
        settings: the command line.
        titles: of the rows, by name, in order; floors begin with "untrained".
        cells: by (row, seed): figures of ``COLUMNS`` in percent, and "steps" and "step_seconds" of
            the pre-training.
        baselines: the probe's, in percent.
        best: the row that label budgets begin from.
        budgets: figures of single runs with "row", "seed", "share", "by", "people" and "images".
    """

    settings: dict[str, Any]
    titles: dict[str, str]
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)
    baselines: dict[str, float] = field(default_factory=dict)
    best: str = ""
    budgets: list[Cell] = field(default_factory=list)

    def add(self, name: str, seed: int, figures: Cell, probe: Cell) -> None:
        """Take the figures of a row and a seed, and the baselines from a line of its probe."""
        self.cells[name, seed] = figures
        self.baselines |= {
            f"{figure}{suffix}": probe[f"probe/{value}_{figure}"]
            for figure in BASELINES
            for suffix, value in (("", "mAP"), ("_rank1", "rank1"))
        }

    @property
    def trained(self) -> list[str]:
        """The rows that are no floor."""
        return [name for name in self.titles if not name.startswith("untrained")]

    def values(self, name: str, column: str) -> list[float]:
        """A figure of a row, seed by seed."""
        return [cell[column] for (row, _), cell in self.cells.items() if row == name]

    def mean(self, name: str, column: str) -> float:
        """Over the seeds."""
        return mean(self.values(name, column))

    def budget_groups(self) -> dict[tuple, list[Cell]]:
        """The budgets' runs by (by, share, row)."""
        groups: dict[tuple, list[Cell]] = {}
        for cell in self.budgets:
            groups.setdefault((cell["by"], cell["share"], cell["row"]), []).append(cell)
        return groups


def floor_of(name: str) -> str:
    """The untrained row of the same network."""
    return "untrained_ics" if name.endswith("_ics") else "untrained"


def generated(results: Results) -> bool:
    """Whether any of the images are generated people."""
    names = (results.settings[name] for name in ("pool", "target", "probe_data"))
    return any(name.partition(":")[0] == "demo" for name in names)


# -- Markdown


def report(results: Results, probe: str) -> str:
    """Both tables, with what has to be known to read them."""
    settings = results.settings
    steps = sorted({cell["steps"] for cell in results.cells.values() if "steps" in cell})
    lines = [
        f"Pre-training: {', '.join(map(str, steps))} steps of {settings['batch_size']} images of "
        f"{settings['pool']}, {settings['backbone']}, "
        f"{settings['img_size'][0]}x{settings['img_size'][1]}. Fine-tuning: "
        f"{settings['finetune_epochs']} epochs of {settings['target']}. Probe: {probe}. Mean ± "
        f"standard deviation (single values) of seeds {_listed(settings['seeds'])}.",
        "",
        *([GENERATED, ""] if generated(results) else []),
        *objectives_table(results),
    ]
    if results.budgets:
        lines += ["", CHOSEN, "", *budgets_table(results)]
    return "\n".join(lines) + "\n"


def objectives_table(results: Results) -> list[str]:
    """A line a row; the fastest seed counts for the time of a step."""
    lines = _heading("objective", *COLUMNS.values(), "ms a step")
    for name, title in results.titles.items():
        cells = [spread(results.values(name, column)) for column in COLUMNS]
        times = results.values(name, "step_seconds") if name in results.trained else []
        lines.append(_row(title, *cells, f"{1000 * min(times):.0f}" if times else "–"))
    for name, title in BASELINES.items():
        figures = [f"{results.baselines[name + suffix]:.1f}" for suffix in ("", "_rank1")]
        lines.append(_row(title, *figures, "–", "–", "–"))
    return lines


def budgets_table(results: Results) -> list[str]:
    """A line a budget: random weights beside the best row."""
    names = (floor_of(results.best), results.best)
    columns = [f"{results.titles[name]}: {figure} %" for name in names for figure in _FIGURES]
    lines = _heading("labels", "people", "images", *columns)
    groups = results.budget_groups()
    for by, share in dict.fromkeys(key[:2] for key in groups):
        pair = [groups[by, share, name] for name in names]
        cells = [
            spread([cell[column] for cell in one]) for one in pair for column in _FIGURES.values()
        ]
        counts = [
            _listed(sorted({cell[kind] for cell in pair[0]})) for kind in ("people", "images")
        ]
        lines.append(_row(f"{share:.0%} by {by}", *counts, *cells))
    return lines


_FIGURES = {"mAP": "finetuned", "rank-1": "finetuned_rank1"}


def spread(values: Sequence[float]) -> str:
    """``46.1 ± 1.2 (45.0, 46.3, 47.1)``; a single value stands alone."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    single = ", ".join(f"{value:.1f}" for value in values)
    return f"{mean(values):.1f} ± {stdev(values):.1f} ({single})"


def _heading(*titles: str) -> list[str]:
    return [_row(*titles), "|---|" + "---:|" * (len(titles) - 1)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


# -- JSON


def record(results: Results, probe: str) -> dict[str, Any]:
    """Everything that was measured, and under what."""
    settings = {name: as_plain(_text(value)) for name, value in results.settings.items()}
    runs = [{"row": name, "seed": seed, **cell} for (name, seed), cell in results.cells.items()]
    return {
        "benchmark": "objectives", "generated": generated(results), "probe": probe,
        "settings": settings, "titles": results.titles, "runs": runs,
        "baselines": results.baselines, "best": results.best, "budgets": results.budgets,
        "hardware": hardware(), "software": software(),
    }  # fmt: skip


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
