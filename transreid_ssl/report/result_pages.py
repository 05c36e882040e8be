"""Pages of what single commands find: an evaluation, a search, clusters, a selection of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transreid_ssl.data import CorruptImage, Pool, decode
from transreid_ssl.report.cfs_sheet import axis_name, extreme_rows, histogram_edges
from transreid_ssl.report.charts import Charts
from transreid_ssl.report.page import data_uri, write_page
from transreid_ssl.report.sections import Chapter, clusters, feature_maps, gallery, ranks
from transreid_ssl.words import counted, part_of

_COLUMNS = {"mAP": "mAP", "rank-1": "rank-1", "rank-5": "rank-5", "rank-10": "rank-10",
            "mINP": "mINP"}  # fmt: skip


def write_evaluation(path: str | Path, record: Mapping[str, Any], found: dict[str, Any]) -> Path:
    """Write the page of what ``evaluate`` has measured.

    Args:
        record: what it writes as JSON.
        found: by ``findings.of_retrieval``.
    """
    charts, settings = Charts(), record["settings"]
    chapters = [
        Chapter("results", "Results", {"titles": list(_COLUMNS), "rows": _rows(record["results"])}),
        Chapter("gallery", "What was found", gallery(found) or {}),
        Chapter("rates", "Ranks and verification", ranks(found, charts) or {}),
        Chapter("map", "A map of the features", feature_maps(found, charts) or {}),
    ]
    facts = {"Network": record["network"], "Weights": settings["weights"],
             "Evaluated on": record["protocol"]}  # fmt: skip
    if record["in_sample"]:
        facts["In-sample"] = f"the network {record['origin']}"
    versions = ", ".join(f"{name} {version}" for name, version in record["software"].items())
    return _write(path, "Evaluation", settings["weights"], facts, chapters, settings, versions)


def write_search(
    path: str | Path, title: str, rows: Sequence[dict[str, Any]], settings: Mapping[str, Any]
) -> Path:
    """Write the page of a search: rows as ``sections.gallery`` takes them."""
    chapter = Chapter("gallery", "What was found", gallery({"gallery": rows}) or {})
    facts = {"Weights": settings["weights"], "Query": settings["query"],
             "Gallery": settings["gallery"]}  # fmt: skip
    return _write(path, "Search", title, facts, [chapter], settings)


def write_clusters(
    path: str | Path,
    found: Mapping[str, Any],
    facts: Mapping[str, str],
    warnings: Sequence[str],
    settings: Mapping[str, Any],
) -> Path:
    """Write the page of the clusters of a pool.

    Args:
        found: by ``findings.of_clusters``.
        facts: what was clustered, and how.
        warnings: what of the clusters cannot be as it should.
        settings: of the command.
    """
    sizes = np.asarray(found["sizes"])
    least, most = sizes.min(), sizes.max()
    middle = f"{np.median(sizes):,.1f}".removesuffix(".0")
    of_several = f"{least:,} to {most:,} images, median {middle}"
    told = dict(facts) | {
        "Sizes": of_several if most > least else counted(int(most), "image"),
        "In no cluster": f"{counted(found['outliers'], 'image')}, "
        f"{100 * found['outliers'] / found['images']:.0f} % of all",
    }
    chapter = Chapter(
        "clusters", "Clusters", clusters({**found, "warnings": warnings}, Charts()) or {}
    )
    title = f"{counted(len(sizes), 'cluster')} of {counted(found['images'], 'image')}"
    return _write(path, "Clusters", title, told, [chapter], settings)


def write_selection(
    path: str | Path,
    pool: Pool,
    scores: np.ndarray,
    kept: np.ndarray,
    *,
    method: str,
    lines: Sequence[str],
    curves: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    count: int = 24,
) -> Path:
    """Write the page of a selection; arguments as of ``draw_cfs_sheet``, and:

    Args:
        lines: the account of the selection, in words.
        settings: of the command.
    """
    charts = Charts()
    edges = histogram_edges(scores)
    finite = np.isfinite(scores)
    parts = {
        f"{name}: {int(mine.sum()):,}": (np.histogram(scores[mine], edges)[0], edges)
        for name, mine in (("kept", finite & kept), ("dropped", finite & ~kept))
    }
    alt = "Histogram of the scores, of what is kept and of what is dropped"
    words = {"xlabel": axis_name(method), "ylabel": "images"}
    drawn = [("Scores", charts.histogram(alt, parts, **words))]
    if curves:
        best = np.linspace(0, 100, 101)
        shares = {name: (best, 100 * values) for name, values in curves.items()}
        words = {"xlabel": "best part of the pool (%)", "ylabel": "%"}
        drawn.append(("By the part kept", charts.lines("Shares by part", shares, **words)))
    rows = [
        {
            "title": row.title,
            "tiles": [
                _tile(pool, int(index)) | {"kept": bool(mine), "score": float(score)}
                for index, score, mine in zip(row.indices, row.scores, row.kept)
            ],
        }
        for row in extreme_rows(scores, kept, count, method)
    ]
    chapter = Chapter("selection", "Kept and dropped", {
        "lines": list(lines), "charts": drawn, "rows": rows
    })  # fmt: skip
    share = part_of(int(kept.sum()), len(pool), "image")
    facts = {"Pool": pool.describe(), "Kept": share,
             "Score": axis_name(method)}  # fmt: skip
    return _write(path, "Selection of images", pool.source, facts, [chapter], settings)


def _rows(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[float | None]]]:
    return [
        (name, [None if key not in found else 100 * found[key] for key in _COLUMNS.values()])
        for name, found in results.items()
    ]


def _tile(pool: Pool, index: int) -> dict[str, Any]:
    name = pool.names[index]
    try:
        image = decode(pool.read(index), name)
    except CorruptImage:
        image = np.full((128, 64, 3), 128, np.uint8)
    return {"image": data_uri(image), "name": str(name)}


def _write(
    path: str | Path,
    kind: str,
    title: str,
    facts: Mapping[str, str],
    chapters: Sequence[Chapter],
    settings: Mapping[str, Any],
    versions: str = "",
) -> Path:
    return write_page(
        path, "run.html", kind=kind, title=title, facts=facts, versions=versions,
        chapters=[chapter for chapter in chapters if chapter.content],
        settings=list(settings.items()),
    )  # fmt: skip
