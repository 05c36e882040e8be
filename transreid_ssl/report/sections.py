"""The chapters of a run's page; one that has nothing to show is left out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from transreid_ssl.palette import SERIES
from transreid_ssl.report.charts import Charts
from transreid_ssl.report.names import digits
from transreid_ssl.report.runs import Run
from transreid_ssl.training import RetrievalProbe, TrackProbe
from transreid_ssl.training.curves import BASELINES, series_by_panel
from transreid_ssl.words import counted

TITLES = RetrievalProbe.figures | TrackProbe.figures


class Chapter(NamedTuple):
    """A part of a page.

    Attributes:
        key: its id in the page, and the name of the macro that draws it.
        title: its heading.
        content: what the macro is given.
    """

    key: str
    title: str
    content: dict[str, Any]


def chapters(run: Run) -> list[Chapter]:
    """All chapters that a run has something for, in the order of the page."""
    charts, found = Charts(), run.found
    made: list[tuple[str, str, Callable[[], dict[str, Any] | None]]] = [
        ("figures", "Before and after", lambda: _figures(run, charts)),
        ("curves", "Curves", lambda: _curves(run, charts)),
        ("gallery", "What was found", lambda: gallery(found.get("retrieval", {}))),
        ("rates", "Ranks and verification", lambda: ranks(found.get("retrieval", {}), charts)),
        ("attention", "Where it looks", lambda: {"crops": found.get("attention")}),
        ("map", "A map of the features", lambda: feature_maps(found.get("retrieval", {}), charts)),
        ("clusters", "Clusters", lambda: clusters(_of_run(found), charts)),
        ("speed", "Speed and memory", lambda: _speed(run, charts)),
    ]
    given = ((key, title, make()) for key, title, make in made)
    return [Chapter(*one) for one in given if one[2] and any(one[2].values())]


def _figures(run: Run, charts: Charts) -> dict[str, Any] | None:
    """Each probed figure before and after, beside its baselines, as a table and as bars."""
    names = [name for name in TITLES if run.first_last(f"probe/{name}")]
    if not names:
        return None
    last = run.series(f"probe/{names[0]}")[0][-1]
    after = "after" if run.progress.is_finished else f"at step {last:,}"
    rows = {"before": [], after: []}
    for name in names:
        for row, value in zip(rows.values(), run.first_last(f"probe/{name}")):
            row.append(value)
    for key, title in BASELINES.items():
        values = [run.first_last(f"probe/{name}_{key}") for name in names]
        if all(values):
            rows[title] = [value[-1] for value in values]
    if len(run.series(f"probe/{names[0]}")[0]) < 2:
        rows = {"measured": rows[after], **dict(list(rows.items())[2:])}

    def fill(axis: Any) -> None:
        heights = np.arange(len(rows))
        for number, name in enumerate(names):
            values = [row[number] for row in rows.values()]
            place = heights + (number - (len(names) - 1) / 2) * 0.36
            bars = axis.barh(place, values, 0.34, color=SERIES[number], label=TITLES[name])
            axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        axis.set(yticks=heights, yticklabels=list(rows), xlabel="%", xlim=(0, 112))
        axis.set_xticks(range(0, 101, 20))
        axis.invert_yaxis()
        axis.grid(False)
        axis.legend(fontsize=8, loc="lower right")

    said = "; ".join(f"{row}: {value[0]:.1f} %" for row, value in rows.items())
    return {
        "after": after,
        "falling": "equal_error_rate" in names,
        "on": next((x["probe/on"] for x in reversed(run.metrics) if "probe/on" in x), None),
        "titles": [TITLES[name] for name in names],
        "rows": list(rows.items()),
        "chart": charts.draw(f"Bars of {TITLES[names[0]]}, {said}", fill, (4.6, 2.6)),
    }


def _curves(run: Run, charts: Charts) -> dict[str, Any]:
    drawn = []
    panels = sorted(series_by_panel(run.metrics).items(), key=lambda panel: _place(panel[0]))
    for heading, lines in panels:
        dotted = [
            name for name in lines if name.endswith(tuple(f", {of}" for of in BASELINES.values()))
        ]
        scale = {"yscale": "log"} if heading == "schedules" else {}
        alt = f"Curves by step of {', '.join(lines)}"
        chart = charts.lines(alt, lines, dotted=dotted, xlabel="step", **scale)
        only = next(iter(lines)) if len(lines) == 1 else heading
        drawn.append((heading if only == heading else f"{heading}: {only}", chart))
    return {"charts": drawn}


def _place(heading: str) -> int:
    """What is measured comes first, then losses and rates, then what tells of the run's health."""
    return 0 if heading.endswith("(%)") else {"loss": 1, "schedules": 2}.get(heading, 3)


def _of_run(found: dict[str, Any]) -> dict[str, Any] | None:
    """What is said of a run's clusters."""
    of = {"of": ", the last ones of the run"}
    return found["clusters"] | of if "clusters" in found else None


def gallery(found: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of tiles; similarities with as many digits as tell the ranks of a row apart."""
    rows = [dict(row) for row in found.get("gallery", [])]
    for row in rows:
        values = [one["similarity"] for one in row["found"]]
        row["digits"] = digits(values)
    judged = any(one.get("correct") is not None for row in rows for one in row["found"])
    return {"rows": rows, "judged": judged} if rows else None


def ranks(found: dict[str, Any], charts: Charts) -> dict[str, Any] | None:
    """The CMC and the ROC curve."""
    drawn: list[tuple[str, Markup]] = []
    if cmc := found.get("cmc"):
        percent = [100 * value for value in cmc]
        alt = f"CMC curve: {percent[0]:.1f} % at rank 1, {percent[-1]:.1f} % at rank {len(cmc)}"
        line = {"": (list(range(1, len(cmc) + 1)), percent)}
        words = {"xlabel": "rank", "ylabel": "queries with a match (%)", "ylim": (0, 101)}
        drawn.append((
            "CMC: queries whose person is among the first ranks", charts.lines(alt, line, **words)
        ))  # fmt: skip
    if roc := found.get("roc"):
        alt = f"ROC curve: the area under it is {roc['area']:.3f}"
        percent = [[100 * value for value in roc[side]] for side in ("false", "true")]
        line = {"": tuple(percent)}
        words = {"xlabel": "false matches (% of pairs of two people)", "xscale": "log",
                 "ylabel": "true matches (%)", "ylim": (0, 101)}  # fmt: skip
        heading = (
            f"ROC: {roc['same']:,} pairs of one person against {roc['different']:,} of two; "
            f"the area under the curve is {roc['area']:.3f}"
        )
        drawn.append((heading, charts.lines(alt, line, **words)))
    return {"charts": drawn, "figures": found.get("figures")}


def feature_maps(found: dict[str, Any], charts: Charts) -> dict[str, Any] | None:
    """Two scatter plots of the same points: by identity and by camera."""
    flat = found.get("map")
    if not flat or not flat["x"]:
        return None
    drawn = []
    for kind, codes in (("identity", flat["identity"]), ("camera", flat.get("camera"))):
        if codes is not None:
            groups = [f"{kind} {code}" for code in codes]
            alt = f"{counted(len(codes), 'image')} as points in the plane, marked by {kind}"
            drawn.append((f"by {kind}", charts.points(alt, flat["x"], flat["y"], groups)))
    return {"charts": drawn, "method": flat["method"], "count": len(flat["x"])}


def clusters(found: dict[str, Any] | None, charts: Charts) -> dict[str, Any] | None:
    """What ``findings.of_clusters`` tells, with a histogram of the sizes."""
    if not found:
        return None
    sizes = np.asarray(found["sizes"], float)
    most = min(int(sizes.max()), _MOST_OF_CLUSTER)
    counts, edges = np.histogram(np.minimum(sizes, most), np.arange(0.5, most + 1))
    of = counted(len(sizes), "cluster")
    alt = f"Histogram of the sizes of {of}, the largest of {int(sizes.max())}"
    words = {"xlabel": "images of a cluster", "ylabel": "clusters"}
    chart = charts.histogram(alt, {"clusters": (counts.tolist(), edges.tolist())}, **words)
    above = f" (above {most} counted as {most})" if sizes.max() > most else ""
    rows = [
        row | {"digits": digits([one.get("similarity", 1.0) for one in row["tiles"]])}
        for row in found["rows"]
    ]
    return found | {
        "rows": rows, "count": len(sizes), "charts": [(f"Sizes of the clusters{above}", chart)],
        "compared": any("similarity" in one for row in rows for one in row["tiles"]),
    }  # fmt: skip


_MOST_OF_CLUSTER = 60
"""Images of a cluster, in the histogram of sizes; larger ones are counted there."""


def _speed(run: Run, charts: Charts) -> dict[str, Any] | None:
    """Rates over the run, their medians, and the most memory held."""
    steps, rate = run.series("images_per_second")
    if not steps:
        return None
    _, each = run.series("step_seconds")
    waits_at, waits = run.series("data_wait")
    _, shares = run.series("ceiling_share")
    facts = {
        "Images a second (median)": f"{np.median(rate):,.1f}",
        "Of what the device's matrix products reach": (
            f"{100 * np.median(shares):.0f} %" if shares else None
        ),
        "Seconds a step (median)": f"{np.median(each):.3g}" if each else None,
        "Waiting for images": f"{100 * np.mean(waits):.0f} % of the time" if waits else None,
    }
    for place, size in run.found.get("made", {}).get("memory", {}).items():
        facts[f"Most memory ({place})"] = f"{size / 2**30:.2f} GiB"

    def from_zero(alt: str, at: Sequence[float], values: Sequence[float]) -> Markup:
        return charts.lines(
            alt, {"": (at, values)}, xlabel="step", ylim=(0, 1.08 * max(values) or 1)
        )

    drawn = [("Images a second", from_zero("Images a second by step", steps, rate))]
    if any(waits):
        alt = "Share of the time that steps wait for images"
        chart = from_zero(alt, waits_at, [100 * value for value in waits])
        drawn.append(("Waiting for images (% of the time)", chart))
    return {"facts": {name: v for name, v in facts.items() if v}, "charts": drawn}
