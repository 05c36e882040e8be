"""Charts as SVG that stands within a page: its colours and letters are those of the page."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from transreid_ssl.palette import BLUE, MARKERS, RED, REFERENCE_DASHES, SERIES, style
from transreid_ssl.report.names import shorten
from transreid_ssl.words import counted

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_INK = "#010203"  # stands for the colour of the page's text, which is dark or light
_SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "transreid_ssl", "text.parse_math": False,
    "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "grid.color": _INK, "grid.alpha": 0.2, "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "font.family": "sans-serif",
}  # fmt: skip
_MOST_POINTS = 400
"""Of a line: more are not told apart on a page."""

_MOST_LETTERS = 44
"""Of a name in a legend, which are as many as stand in a line."""

Line = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


class Charts:
    """The charts of one page; their ids are unique in it."""

    def __init__(self) -> None:
        self._count = 0

    def draw(
        self, alt: str, fill: Callable[[Axes], None], size: tuple[float, float] = (4.6, 2.9)
    ) -> Markup:
        """An ``svg`` element.

        Args:
            alt: what it shows, for who does not see it.
            fill: draws into the axes.
            size: width and height in inches; on the page it is as wide as there is room.
        """
        self._count += 1
        with matplotlib.rc_context(_SETTINGS):
            figure = Figure(figsize=size, layout="constrained")
            axis = figure.subplots()
            axis.grid(True, lw=0.6)
            axis.set_axisbelow(True)
            fill(axis)
            text = io.BytesIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        return _inline(text.getvalue(), alt, f"c{self._count}-")

    def lines(
        self, alt: str, lines: Mapping[str, Line], *, dotted: Sequence[str] = (), **axes: Any
    ) -> Markup:
        """Lines by their names; those in ``dotted`` are what others are compared with.

        Further settings are those of the axes (xlabel, ylabel, xscale, …).
        """

        def fill(axis: Axes) -> None:
            solid = [name for name in lines if name not in dotted]
            for name, (x, y) in lines.items():
                x, y = _thinned(np.asarray(x, float), np.asarray(y, float))
                looks: dict[str, Any] = (
                    style(solid.index(name)) if name in solid else {"color": _INK, "ls": ":"}
                )
                if name in dotted:
                    looks["ls"] = REFERENCE_DASHES[dotted.index(name) % len(REFERENCE_DASHES)]
                mark = "o" if len(x) < 12 and name in solid else None
                if name in dotted and len(x) == 1:  # a line of one point would not be seen
                    axis.axhline(y[0], label=_short(name), lw=1.6, **looks)
                    continue
                axis.plot(x, y, label=_short(name), lw=1.6, marker=mark, ms=3.5, **looks)
            axis.set(**axes)
            if axes.get("xlabel") == "step":  # there are no parts of one
                axis.locator_params(axis="x", integer=True)
            _write_plain(axis)
            if len(lines) > 1:  # of one the heading speaks
                axis.figure.legend(loc="outside lower left", ncols=columns, fontsize=9)

        longest = max(len(_short(name)) for name in lines)
        columns = max(1, min(len(lines), 3, 60 // (longest + 8)))
        rows = -(-len(lines) // columns) if len(lines) > 1 else 0
        return self.draw(alt, fill, (4.6, 2.7 + 0.19 * rows))

    def points(
        self,
        alt: str,
        x: Sequence[float] | np.ndarray,
        y: Sequence[float] | np.ndarray,
        groups: Sequence[str],
    ) -> Markup:
        """Points (N,) with a colour and a shape for each of the largest groups, of those (N,)."""
        names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        counts = np.bincount(codes, minlength=len(names))
        shown = np.argsort(-counts, kind="stable")[:12]
        across, up = np.asarray(x, float), np.asarray(y, float)

        def fill(axis: Axes) -> None:
            rest = ~np.isin(codes, shown)
            if rest.any():
                said = counted(len(names) - len(shown), "other")
                axis.plot(across[rest], up[rest], ".", color=_INK, alpha=0.25, ms=4, label=said)
            for place, group in enumerate(sorted(shown, key=lambda n: _natural(names[n]))):
                mine = codes == group
                looks: dict[str, Any] = {"color": SERIES[place % len(SERIES)], "alpha": 0.8}
                mark = MARKERS[place % len(MARKERS)]
                axis.plot(
                    across[mine], up[mine], mark, ms=4.5, mew=0, label=_short(names[group]), **looks
                )
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1)

        return self.draw(alt, fill, (4.6, 3.4))

    def histogram(
        self, alt: str, parts: Mapping[str, tuple[Sequence[float], Sequence[float]]], **axes: Any
    ) -> Markup:
        """Counts (B,) between edges (B + 1,), of one part or of two, one on the other."""

        def fill(axis: Axes) -> None:
            below: Any = 0
            for (name, (counts, edges)), colour in zip(parts.items(), (BLUE, RED)):
                counts, edges = np.asarray(counts, float), np.asarray(edges, float)
                axis.bar(
                    edges[:-1], counts, np.diff(edges), bottom=below, align="edge", color=colour,
                    label=name, lw=0, hatch="//" if colour == RED else None, edgecolor="white",
                )  # fmt: skip
                below = below + counts
            axis.set(**axes)
            axis.locator_params(axis="y", integer=True)
            if len(parts) > 1:
                axis.legend(fontsize=8)

        return self.draw(alt, fill)


def _write_plain(axis: Axes) -> None:
    """Numbers on logarithmic axes as 0.01 and not as powers, which letters of a page cannot."""
    for side in (axis.xaxis, axis.yaxis):
        if side.get_scale() == "log":
            side.set_major_formatter("{x:g}")
            side.set_minor_formatter(NullFormatter())


def _natural(name: str) -> tuple:
    """Numbers in names are ordered as numbers."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def _short(name: str) -> str:
    """A name for a legend, which passes over those that begin with an underscore."""
    name = shorten(name, _MOST_LETTERS)
    return f" {name}" if name.startswith("_") else name


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= _MOST_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).astype(int))
    return x[kept], y[kept]


def _inline(svg: bytes, alt: str, prefix: str) -> Markup:
    """An SVG file as an element of a page: ids of its own, the page's colours, and ``alt``."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}metadata":
                parent.remove(child)
        for name, value in list(parent.attrib.items()):
            parent.set(name, _themed(value, prefix if name == "id" else "", prefix))
        if link := parent.attrib.pop(f"{{{_LINK}}}href", ""):
            parent.set("href", f"#{prefix}{link[1:]}")
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("class", "chart")
    ElementTree.register_namespace("", _SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # its text is escaped


def _themed(value: str, own: str, prefix: str) -> str:
    value = own + value.replace("url(#", f"url(#{prefix}").replace(_INK, "currentColor")
    for number, colour in enumerate(SERIES):
        value = value.replace(colour, f"var(--s{number}, {colour})")
    return value
