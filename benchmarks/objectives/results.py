"""What was measured, as a table, as a picture and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting import deviations, hardware, heading, row, spread
from transreid_ssl.palette import FAINT
from transreid_ssl.training.config import software

Cell = dict[str, Any]
COLUMNS = {
    "direct": "direct mAP %",
    "direct_rank1": "direct rank-1 %",
    "finetuned": "fine-tuned mAP %",
    "finetuned_rank1": "fine-tuned rank-1 %",
}
BASELINES = {"histogram": "colour histogram", "chance": "chance"}
CHOSEN = "Parts of the labels, about as many steps; the best row was chosen on the same people."
GENERATED = "On generated people: the figures say nothing about real cameras."


@dataclass
class Results:
    """What was measured.

    Attributes:
        settings: the command line.
        titles: of the rows, by name, in order; floors begin with "untrained".
        probe: what is retrieved from.
        runs: "row", "seed", figures of ``COLUMNS`` in percent, and "steps" and "step_seconds" of
            the pre-training.
        baselines: the probe's, in percent.
        best: the row that label budgets begin from.
        budgets: figures of single runs with "row", "seed", "share", "by", "people" and "images".
    """

    settings: dict[str, Any]
    titles: dict[str, str]
    probe: str
    runs: list[Cell] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    best: str = ""
    budgets: list[Cell] = field(default_factory=list)

    def add(self, name: str, seed: int, figures: Cell, probe: Cell) -> None:
        """Take the figures of a row and a seed, and the baselines from a line of its probe."""
        self.runs.append({"row": name, "seed": seed} | figures)
        for figure, (suffix, value) in product(BASELINES, (("", "mAP"), ("_rank1", "rank1"))):
            self.baselines[figure + suffix] = probe[f"probe/{value}_{figure}"]

    @property
    def trained(self) -> list[str]:
        """The rows that are no floor."""
        return [name for name in self.titles if not name.startswith("untrained")]

    @property
    def generated(self) -> bool:
        """Whether any of the images are generated people."""
        names = (self.settings[name] for name in ("pool", "target", "probe_data"))
        return any(name.partition(":")[0] == "demo" for name in names)

    def values(self, name: str, column: str) -> list[float]:
        """A figure of a row, seed by seed."""
        return [run[column] for run in self.runs if run["row"] == name]

    def mean(self, name: str, column: str) -> float:
        """Over the seeds."""
        return mean(self.values(name, column))

    def budget_groups(self) -> dict[tuple, list[Cell]]:
        """The budgets' runs by (by, share, row)."""
        groups: dict[tuple, list[Cell]] = {}
        for cell in self.budgets:
            groups.setdefault((cell["by"], cell["share"], cell["row"]), []).append(cell)
        return groups

    def record(self) -> dict[str, Any]:
        """Everything for JSON."""
        about = {"benchmark": "objectives", "generated": self.generated}
        return about | asdict(self) | {"hardware": hardware(), "software": software()}


def floor_of(name: str) -> str:
    """The untrained row of the same network."""
    return "untrained_ics" if name.endswith("_ics") else "untrained"


# -- Markdown


def report(results: Results) -> str:
    """Both tables, with what has to be known to read them."""
    settings = results.settings
    steps = sorted({run["steps"] for run in results.runs if "steps" in run})
    height, width = settings["img_size"]
    lines = [
        f"Pre-training: {_listed(steps)} steps of {settings['batch_size']} images of "
        f"{settings['pool']}, {settings['backbone']}, {height}x{width}. Fine-tuning: "
        f"{settings['finetune_epochs']} epochs of {settings['target']}. Probe: {results.probe}. "
        f"Mean ± standard deviation (single values) of seeds {_listed(settings['seeds'])}.",
        "",
        *([GENERATED, ""] if results.generated else []),
        *objectives_table(results),
    ]
    if results.budgets:
        lines += ["", CHOSEN, "", *budgets_table(results)]
    return "\n".join(lines) + "\n"


def objectives_table(results: Results) -> list[str]:
    """A line a row; the fastest seed counts for the time of a step."""
    lines = heading("objective", *COLUMNS.values(), "ms a step")
    for name, title in results.titles.items():
        cells = [spread(results.values(name, column)) for column in COLUMNS]
        times = results.values(name, "step_seconds") if name in results.trained else []
        lines.append(row(title, *cells, f"{1000 * min(times):.0f}" if times else "–"))
    for name, title in BASELINES.items():
        figures = [f"{results.baselines[name + suffix]:.1f}" for suffix in ("", "_rank1")]
        lines.append(row(title, *figures, "–", "–", "–"))
    return lines


def budgets_table(results: Results) -> list[str]:
    """A line a budget: random weights beside the best row."""
    figures = {"mAP": "finetuned", "rank-1": "finetuned_rank1"}
    names = (floor_of(results.best), results.best)
    columns = [f"{results.titles[name]}: {figure} %" for name in names for figure in figures]
    lines = heading("labels", "people", "images", *columns)
    groups = results.budget_groups()
    for by, share in dict.fromkeys(key[:2] for key in groups):
        pair = [groups[by, share, name] for name in names]
        cells = [spread([run[key] for run in runs]) for runs in pair for key in figures.values()]
        counts = [_listed(sorted({run[kind] for run in pair[0]})) for kind in ("people", "images")]
        lines.append(row(f"{share:.0%} by {by}", *counts, *cells))
    return lines


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


# -- the picture


def draw(results: Results, path: Path) -> None:
    """Bars of mAP with the untrained network's as a line across; the label budgets beside them."""
    rows, panels = len(results.trained), 1 + bool(results.budgets)
    figure = Figure(figsize=(2 + 1.1 * rows + 4 * (panels - 1), 4.4), layout="constrained")
    axes = figure.subplots(1, panels, width_ratios=[2 + rows, 4][:panels], squeeze=False)[0]
    _draw_rows(results, axes[0])
    if results.budgets:
        _draw_budgets(results, axes[1])
    note = "generated people" if results.generated else results.settings["target"]
    seeds = len(results.settings["seeds"])
    deviation = f", mean and deviation of {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"mAP (%) on {note}{deviation}", fontsize=11)
    figure.savefig(path, dpi=110, format="png")


def _draw_rows(results: Results, axis: Any) -> None:
    names, width = results.trained, 0.38
    for side, column, label in (
        (-0.5, "direct", "direct retrieval"), (0.5, "finetuned", "after fine-tuning"),
    ):  # fmt: skip
        places = [place + side * width for place in range(len(names))]
        bars = deviations([results.values(name, column) for name in names], "height")
        axis.bar(places, width=width, label=label, **bars)
        floors = [results.mean(floor_of(name), column) for name in names]
        ends = [[x + half * width for x in places] for half in (-0.5, 0.5)]
        floor_label = "untrained" if side > 0 else None
        axis.hlines(floors, *ends, colors="black", linestyles="--", label=floor_label)
    for name, style in (("histogram", ":"), ("chance", "-.")):
        axis.axhline(results.baselines[name], color=FAINT, ls=style, lw=1, label=BASELINES[name])
    axis.set_xticks(range(len(names)), [results.titles[name] for name in names], fontsize=8)
    axis.tick_params(axis="x", rotation=20)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the legend
    axis.legend(fontsize=8, ncols=2, loc="upper left")


def _draw_budgets(results: Results, axis: Any) -> None:
    groups = results.budget_groups()
    for by, name in dict.fromkeys((by, name) for by, _, name in groups):
        found = {share: runs for (b, share, r), runs in groups.items() if (b, r) == (by, name)}
        bars = deviations([[run["finetuned"] for run in runs] for runs in found.values()], "y")
        style = "--" if name.startswith("untrained") else "-"
        label = f"{results.titles[name]}, by {by}"
        axis.errorbar([100 * s for s in found], **bars, marker="o", ms=4, ls=style, label=label)
    axis.set_xlabel("% of the labels", fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
