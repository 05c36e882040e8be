"""One picture of a run: its losses, its retrieval probe, its health and its schedules."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transreid_ssl.palette import REFERENCE_DASHES, style

_CLUSTERS = {
    "found": "clusters by epoch",
    "true_identities": "clusters by epoch",
    "outliers": "images without a cluster",
    "unreadable": "images without a cluster",
    "mean_size": "images of a cluster",
    "largest_size": "images of a cluster",
    "adjusted_rand_index": "clusters against true identities",
    "v_measure": "clusters against true identities",
}
_TITLES = {"rank1": "rank-1", "roc_area": "ROC area", "v_measure": "V-measure",
           "adjusted_rand_index": "adjusted Rand index", "lr": "learning rate"}  # fmt: skip
BASELINES = {"histogram": "colour histogram", "chance": "chance"}
LEGEND = {"fontsize": 7, "loc": "upper center", "bbox_to_anchor": (0.5, -0.2),
          "handlelength": 2.5, "columnspacing": 1}  # fmt: skip
"""Of a panel with more lines than a legend may hide: it stands below."""
_SKIPPED = {"step", "epoch", "images_per_second", "step_seconds", "data_wait", "ceiling_share"}


def draw_curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw every series of ``lines`` (rows of metrics.jsonl), one panel a group of like names.

    Args:
        lines: Rows with a "step" and any numbers; "probe/…" rows carry baselines as constants, and
            in "probe/on" what was looked at, for the heading.
        path: PNG to write.
        title: Heading.
    """
    panels = _panels(lines)
    columns = min(3, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows))
    # A row of a legend is as high as letters are.
    legends = max(-(-len(series) // _columns(series)) for series in [*panels.values(), {}])
    _leave_room(figure, rows, 0.5 + 0.17 * legends)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (heading, series) in zip(axes.flat, panels.items()):
        _draw_panel(axis, heading, series)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / figure.get_figheight())
    figure.savefig(path, dpi=110, format="png")


def _leave_room(figure: Figure, rows: int, below: float) -> None:
    """For numbers, titles and legends ``below``, in inches: measuring takes longer than drawing."""
    width, height = figure.get_size_inches()
    between = below + 0.3  # with the title of the next row
    panel = (height - below - 0.65 - (rows - 1) * between) / rows
    figure.subplots_adjust(
        left=0.7 / width, right=1 - 0.15 / width, wspace=0.22,
        bottom=below / height, top=1 - 0.65 / height, hspace=between / panel,
    )  # fmt: skip


def _draw_panel(axis: Axes, heading: str, series: Mapping[str, tuple[list, list]]) -> None:
    """Draw the lines of one panel: name -> steps and values."""
    for number, (name, (steps, values)) in enumerate(series.items()):
        constant = _is_probe(name) and name.endswith(tuple(BASELINES))
        measured = _is_probe(name) and not constant
        dashes = REFERENCE_DASHES[number % len(REFERENCE_DASHES)]
        axis.plot(
            steps, values, label=_label(name), lw=1.5, ms=3,
            **style(number) | ({"ls": dashes} if constant else {}),
            # A line of one point would not be seen.
            marker="o" if measured or len(steps) == 1 else None,
        )  # fmt: skip
    axis.set_title(heading, fontsize=10, y=1.0)  # to look for a place takes long
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if heading == "schedules":
        axis.set_yscale("log")
        axis.minorticks_off()
    else:
        axis.locator_params(axis="y", nbins=5)
    axis.locator_params(axis="x", nbins=5, integer=True)
    if len(reached := {step for steps, _ in series.values() for step in steps}) == 1:
        axis.set_xticks([*reached])  # else the axis counts in parts of a step
    if [_label(name) for name in series] == [heading]:
        return
    if len(series) > 3:  # would hide the curves
        axis.legend(ncols=_columns(series), **LEGEND)
    else:
        axis.legend(fontsize=7)


def _columns(series: Sequence[str] | Mapping[str, Any]) -> int:
    """Columns of a legend, three at most, that are not wider together than a panel."""
    lengths = [len(_label(name)) + 8 for name in series]  # in letters, with a piece of the line
    for count in (3, 2):
        parts = np.array_split(lengths, count)  # as the legend does
        if sum(max(part, default=0) for part in parts) <= _PANEL_LETTERS:
            return count
    return 1


_PANEL_LETTERS = 84
"""Letters of a legend that stand side by side below a panel."""


def _label(name: str) -> str:
    room, _, plain = name.rpartition("/")
    if plain == "feature_spread":
        return "of the probe" if room else "of a batch"
    figure, _, of = plain.rpartition("_")
    if of in ("histogram", "chance"):
        return f"{title_of(figure)}, {BASELINES[of]}"
    return title_of(plain)


def title_of(name: str) -> str:
    """What is logged under ``name``, in full words."""
    return _TITLES.get(name, name).replace("_", " ")


def _panels(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[list, list]]]:
    panels: dict[str, dict[str, tuple[list, list]]] = {}
    # A run that goes on may look at another set than before: the last one is named.
    probed = next((line["probe/on"] for line in reversed(lines) if "probe/on" in line), "retrieval")
    for line in lines:
        for name, value in line.items():
            if name in _SKIPPED or not isinstance(value, (int, float)):
                continue
            heading = f"{probed} (%)" if _is_probe(name) else _heading(name)
            steps, values = panels.setdefault(heading, {}).setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return panels


def _is_probe(name: str) -> bool:
    return name.startswith("probe/") and not name.endswith("feature_spread")


def _heading(name: str) -> str:
    if name.endswith("feature_spread"):
        return "feature spread (near 0: collapsed)"
    if name in ("lr", "weight_decay", "momentum"):
        return "schedules"
    if name.startswith("clusters/"):
        return _CLUSTERS[name.removeprefix("clusters/")]
    if "loss" in name:
        return "loss"
    return name.replace("_", " ")


def series_by_panel(
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """What ``draw_curves`` draws: by the heading of a panel, steps and values by their labels."""
    return {
        heading: {_label(name): values for name, values in series.items()}
        for heading, series in _panels(lines).items()
    }
