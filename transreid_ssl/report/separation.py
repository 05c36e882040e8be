"""How networks tell pairs of one person from pairs of two: ROC curves and histograms."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transreid_ssl.palette import RIGHT, WRONG, style
from transreid_ssl.retrieval.separation import roc


def draw_separation(
    path: str | Path, similarities: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str
) -> Path:
    """Write a PNG: the ROC curves of all, and of each the histograms of its similarities.

    Args:
        path: where to write; not atomically, as it is one file of several.
        similarities: by name, those of pairs of one person (S,) and of two (D,).
        title: above the curves.
    """
    width = 5 + 3.2 * len(similarities)  # inches, with room for 12 letters of the title each
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    whole = title.replace(" %", "\N{NO-BREAK SPACE}%")
    figure.suptitle(textwrap.fill(whole, int(12 * width)), fontsize=10)
    curves, *charts = figure.subplots(
        1, 1 + len(similarities), width_ratios=[4.5, *[3] * len(similarities)]
    )
    fewest = min(len(different) for _, different in similarities.values())
    for number, (name, sides) in enumerate(similarities.items()):
        curves.plot(*roc(*sides), label=name, drawstyle="steps-post", **style(number))
    curves.set(
        xscale="log", xlim=(min(0.1, 1 / fewest), 1), ylim=(0, 1.01),
        xlabel="false matches (share of pairs of two people)",
        ylabel="true matches (share of pairs of one)",
    )  # fmt: skip
    curves.grid(alpha=0.3)
    curves.legend(fontsize=8)
    for axis, (name, sides) in zip(charts, similarities.items()):
        _draw_histogram(axis, name, *sides)
    figure.savefig(path, format="png", dpi=100)
    return Path(path)


def _draw_histogram(axis: Axes, name: str, same: np.ndarray, different: np.ndarray) -> None:
    both = np.concatenate([same, different])
    edges = np.linspace(both.min(), max(both.max(), both.min() + 1e-6), 41)
    for values, colour, label in ((same, RIGHT, "one person"), (different, WRONG, "two people")):
        axis.hist(values, edges, density=True, color=colour, alpha=0.55, label=label)
    axis.set(xlabel="cosine similarity", yticks=[])
    axis.locator_params(axis="x", nbins=3)
    axis.set_title(name, fontsize=9)
    axis.legend(fontsize=8)
