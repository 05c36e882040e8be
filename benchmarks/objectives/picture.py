"""The picture of ``benchmarks.objectives``."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.objectives.table import BASELINES, Results, floor_of, generated


def draw(results: Results, path: Path) -> None:
    """Bars of mAP with the untrained network's as a line across; the label budgets beside them."""
    panels = 1 + bool(results.budgets)
    figure = Figure(figsize=(2 + 1.1 * len(results.trained) + 4 * (panels - 1), 4.4))
    figure.set_layout_engine("constrained")
    ratios = [2 + len(results.trained), 4][:panels]
    axes = figure.subplots(1, panels, width_ratios=ratios, squeeze=False)[0]
    _bars(results, axes[0])
    if results.budgets:
        _budgets(results, axes[1])
    note = "generated people" if generated(results) else results.settings["target"]
    seeds = len(results.settings["seeds"])
    spread = f", mean and deviation of {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"mAP (%) on {note}{spread}", fontsize=11)
    figure.savefig(path, dpi=110, format="png")


def _bars(results: Results, axis: Any) -> None:
    names, width = results.trained, 0.38
    for column, label, colour, side in (
        ("direct", "direct retrieval", "tab:blue", -0.5),
        ("finetuned", "after fine-tuning", "tab:orange", 0.5),
    ):
        places = [place + side * width for place in range(len(names))]
        found = [results.values(name, column) for name in names]
        axis.bar(
            places, [mean(values) for values in found], width, color=colour, label=label,
            yerr=_deviations(found), capsize=3,
        )  # fmt: skip
        floors = [results.mean(floor_of(name), column) for name in names]
        axis.hlines(
            floors, [x - width / 2 for x in places], [x + width / 2 for x in places],
            colors="black", linestyles="--", label="untrained" if side > 0 else None,
        )  # fmt: skip
    for name, style in (("histogram", ":"), ("chance", "-.")):
        axis.axhline(results.baselines[name], color="grey", ls=style, lw=1, label=BASELINES[name])
    axis.set_xticks(range(len(names)), [results.titles[name] for name in names], fontsize=8)
    axis.tick_params(axis="x", rotation=20)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the legend
    axis.legend(fontsize=8, ncols=2, loc="upper left")


def _budgets(results: Results, axis: Any) -> None:
    groups = results.budget_groups()
    for by, row in dict.fromkeys((by, row) for by, _, row in groups):
        found = {share: cells for (b, share, r), cells in groups.items() if (b, r) == (by, row)}
        values = [[cell["finetuned"] for cell in cells] for cells in found.values()]
        style = "--" if row.startswith("untrained") else "-"
        axis.errorbar(
            [100 * share for share in found], [mean(v) for v in values],
            yerr=_deviations(values), capsize=3, marker="o", ms=4, ls=style,
            label=f"{results.titles[row]}, by {by}",
        )  # fmt: skip
    axis.set_xlabel("% of the labels", fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _deviations(found: Sequence[Sequence[float]]) -> list[float] | None:
    """Error bars; none where there was one seed."""
    return [stdev(values) for values in found] if len(found[0]) > 1 else None
