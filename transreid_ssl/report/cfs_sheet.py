"""Looking at a selection: its scores, and the images at both ends and at the cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transreid_ssl.data import CorruptImage, Pool, decode, resize
from transreid_ssl.files import atomic_path
from transreid_ssl.palette import RIGHT, WRONG, style

_TILE = (128, 64)
_KEPT, _DROPPED = RIGHT, WRONG


@dataclass(frozen=True)
class Row:
    """One strip of the sheet.

    Args:
        title: what these images have in common.
        indices: positions int64 (M,) in the pool, in the order of the strip.
        scores: their scores float32 (M,).
        kept: whether each is kept, bool (M,).
    """

    title: str
    indices: np.ndarray
    scores: np.ndarray
    kept: np.ndarray


def _ends(method: str) -> tuple[str, str]:
    """What the highest and the lowest scores of a method mean."""
    if method.startswith("cfs"):
        return ": the target changed these features least", ": forgotten"
    if method in ("density-ratio", "nearest", "moments"):
        return ": most like the target", ": least like the target"
    return "", ""


def extreme_rows(
    scores: np.ndarray, kept: np.ndarray, count: int = 24, method: str = "cfs"
) -> list[Row]:
    """The highest scores, those nearest to the cut on both sides, and the lowest.

    Args:
        scores: float32 (N,), NaN where an image has none.
        kept: bool (N,).
        count: images a row.
        method: what the scores are.

    Returns:
        Three rows; fewer, and shorter ones, when there are not so many images.
    """
    order = np.argsort(-scores, kind="stable")  # NaN sorts to the end
    order = order[: int(np.isfinite(scores).sum())]
    cut = int(kept[order].sum())
    begin = int(np.clip(cut - count // 2, 0, max(0, len(order) - count)))
    highest, lowest = _ends(method)
    parts = {
        f"highest scores{highest}": order[:count],
        "around the cut": order[begin : begin + count],
        f"lowest scores{lowest}": order[-count:],
    }
    return [Row(t, i, scores[i], kept[i]) for t, i in parts.items() if len(i)]


def draw_cfs_sheet(
    pool: Pool,
    scores: np.ndarray,
    kept: np.ndarray,
    out: str | Path,
    count: int = 24,
    method: str = "cfs",
    curves: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a PNG: the histogram of ``scores`` (N,) and what is kept, above crops of ``pool``.

    Args:
        curves: shares float (101,) of something among, or kept by, the best 0, 1, … 100 % of the
            pool, by what they are; drawn below the histogram.

    Raises:
        UserError: the file cannot be written.
    """
    rows = extreme_rows(scores, kept, count, method)
    lines = [-(-len(row.indices) // 12) for row in rows]  # strips of twelve stay legible
    charts = [3.0] * (1 + bool(curves))
    heights = [*charts, *(1.75 * n for n in lines)]
    figure = Figure(figsize=(10, sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(heights), 1, height_ratios=heights)
    _draw_histogram(axes[0], scores, kept, method)
    axes[0].set_title(pool.describe(), fontsize=9)
    if curves:
        _draw_curves(axes[1], curves, 100 * float(kept.mean()))
    for axis, row in zip(axes[len(charts) :], rows):
        _draw_row(axis, pool, row)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return Path(out)


def histogram_edges(scores: np.ndarray) -> np.ndarray:
    """Edges float64 (61,) of the bins of scores (N,), NaN where there are none."""
    finite = scores[np.isfinite(scores)]
    low, high = float(finite.min()), float(finite.max())
    return np.linspace(low, high if high > low else low + 1e-3, 61)


def axis_name(method: str) -> str:
    """What a method's scores are, for people."""
    return "catastrophic forgetting score (cosine before / after)" if method == "cfs" else method


def _draw_histogram(axis: Axes, scores: np.ndarray, kept: np.ndarray, method: str) -> None:
    finite = np.isfinite(scores)
    edges = histogram_edges(scores)
    groups = [scores[finite & kept], scores[finite & ~kept]]
    labels = [f"kept: {len(groups[0]):,}", f"dropped: {len(groups[1]):,}"]
    axis.hist(groups, bins=edges, stacked=True, color=[_KEPT, _DROPPED], label=labels)
    if len(groups[0]) and len(groups[1]) and groups[0].min() >= groups[1].max():
        cut = float(groups[0].min())
        axis.axvline(cut, color="black", linewidth=1, linestyle="--", label=f"cut at {cut:.4f}")
    axis.set(xlabel=axis_name(method), ylabel="images")
    axis.legend(fontsize=8)


def _draw_curves(axis: Axes, curves: Mapping[str, np.ndarray], kept: float) -> None:
    for number, (label, shares) in enumerate(curves.items()):
        axis.plot(np.linspace(0, 100, len(shares)), 100 * shares, label=label, **style(number))
    axis.axvline(kept, color="black", linewidth=1, linestyle="--")
    axis.text(kept, 101, f" {kept:.0f} % kept", fontsize=8, va="bottom")
    axis.set(xlabel="best part of the pool (%)", ylabel="%", xlim=(0, 100), ylim=(0, 101))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _draw_row(axis: Axes, pool: Pool, row: Row, columns: int = 12) -> None:
    height, width = _TILE
    lines = -(-len(row.indices) // columns)
    # Two pixels between tiles; the frame's colour says whether the image is kept.
    canvas = np.full((lines * (height + 8), columns * (width + 8), 3), 255, np.uint8)
    for position, (index, kept) in enumerate(zip(row.indices, row.kept)):
        top, left = position // columns * (height + 8), position % columns * (width + 8)
        canvas[top + 1 : top + height + 7, left + 1 : left + width + 7] = _rgb(kept)
        canvas[top + 4 : top + height + 4, left + 4 : left + width + 4] = _tile(pool, int(index))
    axis.imshow(canvas, aspect="equal")
    axis.set_title(f"{row.title}  ({_span(row.scores)})", fontsize=9, loc="left")
    axis.set_axis_off()


def _rgb(kept: bool) -> Sequence[int]:
    return tuple(bytes.fromhex((_KEPT if kept else _DROPPED)[1:]))


def _tile(pool: Pool, index: int) -> np.ndarray:
    try:
        return resize(decode(pool.read(index), pool.names[index]), _TILE)
    except CorruptImage:
        return np.full((*_TILE, 3), 128, np.uint8)


def _span(scores: np.ndarray) -> str:
    return f"{scores.max():.4f} to {scores.min():.4f}"
