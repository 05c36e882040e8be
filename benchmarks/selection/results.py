"""What was measured, as tables, as a picture and as JSON."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.reporting import deviations, hardware, heading, row, spread
from benchmarks.selection.pools import BAD, OTHER, TARGET
from benchmarks.selection.scores import ALL, LOWEST, PARTS, RANDOM, TRUTH
from transreid_ssl.cfs.looks import LOOKS
from transreid_ssl.files import atomic_path, write_json, write_text
from transreid_ssl.palette import BLUE, FAINT
from transreid_ssl.training.config import software

TRAINED = {
    "mAP": "direct mAP %", "rank1": "direct rank-1 %", "whitened_mAP": "whitened, mAP %",
    "whitened_rank1": "whitened, rank-1 %",
    "finetuned_mAP": "fine-tuned mAP %", "finetuned_rank1": "fine-tuned rank-1 %",
}  # fmt: skip


@dataclass
class Results:
    """What was measured: the command line, the set that is probed, and a cell a row and seed."""

    settings: dict[str, Any]
    probe: str
    runs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, seed: int, figures: dict[str, Any]) -> None:
        """Take the figures of a row and a seed."""
        self.runs.append({"part": part, "seed": seed} | figures)

    def values(self, part: str, column: str) -> list[Any]:
        """A figure of a row, seed by seed; those that were not measured are left out."""
        found = [run.get(column) for run in self.runs if run["part"] == part]
        return [value for value in found if value is not None]

    def mean(self, part: str, column: str) -> float:
        """Over the seeds."""
        return mean(self.values(part, column))

    @property
    def parts(self) -> list[str]:
        """The rows that were measured."""
        return [part for part in PARTS if any(run["part"] == part for run in self.runs)]

    @property
    def trained(self) -> list[str]:
        """Those of them that a network was trained on."""
        return [part for part in self.parts if self.values(part, "mAP")]

    def best(self) -> str | None:
        """The score whose half gave the highest mean mAP, if there is a random half beside."""
        if RANDOM not in self.trained:
            return None
        scores = [part for part in self.trained if part not in (ALL, RANDOM, LOWEST, TRUTH)]
        return max(scores, key=lambda part: self.mean(part, "mAP"), default=None)


def report(results: Results) -> str:
    """Two tables: what each half gave, and what each score keeps."""
    settings, steps = (
        results.settings,
        sorted({run["steps"] for run in results.runs if "steps" in run}),
    )
    lines = [
        f"DINO, {', '.join(map(str, steps))} steps each, on a pool of {settings['target']} and "
        f"{settings['other']} with {settings['bad']:.0%} bad detections and "
        f"{settings['copies']:.0%} near-copies; {settings['keep']:.0%} kept. "
        f"Probe: {results.probe}. Mean ± standard deviation (single values) of seeds "
        f"{', '.join(map(str, settings['seeds']))}.",
        "",
    ]
    if any(str(settings[name]).startswith("demo") for name in ("target", "other")):
        lines += ["On generated people: the figures say nothing about real cameras.", ""]
    columns = [c for c in TRAINED if any(len(results.values(p, c)) for p in results.parts[1:])]
    lines += heading("trained on", *(TRAINED[c] for c in columns), "loss at the end")
    for part in results.trained:
        cells = [_spread(results, part, column) for column in columns]
        lines.append(row(PARTS[part], *cells, _mean(results, part, "loss", "{:.2f}")))
    return "\n".join([*lines, "", *scores_table(results)]) + "\n"


def scores_table(results: Results) -> list[str]:
    """A line a score: what it knows, what its half holds, and what it follows."""
    held = {TARGET: "target among kept %", OTHER: "other place %", BAD: "bad %"}
    lines = heading(
        "kept", "AUC of the target", "AUC as judged without truth", "AUC against bad detections",
        *held.values(), *(f"corr. {name}" for name in LOOKS if name != "aspect"),
    )  # fmt: skip
    for part in results.parts[1:]:
        aucs = [_mean(results, part, name, "{:.3f}") for name in ("auc", "judged", "auc_bad")]
        kept = [f"{100 * mean(k[kind] for k in results.values(part, 'kept')):.0f}" for kind in held]
        looks = [
            [found[name] for found in results.values(part, "looks") if name in found]
            for name in LOOKS if name != "aspect"
        ]  # fmt: skip
        followed = [f"{mean(values):+.2f}" if values else "–" for values in looks]
        lines.append(row(PARTS[part], *aucs, *kept, *followed))
    return lines


def _spread(results: Results, part: str, column: str) -> str:
    values = results.values(part, column)
    return spread(values) if values else "–"


def _mean(results: Results, part: str, column: str, form: str) -> str:
    values = results.values(part, column)
    return form.format(mean(values)) if values else "–"


def draw(results: Results, path: Path) -> None:
    """mAP of each row with error bars beside the share of the target that it was trained on."""
    parts = results.trained
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(parts)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    bars = deviations([results.values(part, "mAP") for part in parts], "width")
    bars["xerr"] = bars.pop("yerr")
    colours = [FAINT if part in (ALL, RANDOM, TRUTH) else BLUE for part in parts]
    axes[0].barh(range(len(parts)), **bars, color=colours)
    axes[0].set_yticks(range(len(parts)), [PARTS[part] for part in parts], fontsize=8)
    axes[0].invert_yaxis()
    axes[0].set_xlabel(f"direct mAP (%), {len(results.settings['seeds'])} seeds", fontsize=9)
    kept = [[k[TARGET] for k in results.values(part, "kept")] for part in parts]
    shares = [100 * mean(values) if values else None for values in kept]
    held = [n for n, share in enumerate(shares) if share is not None]
    axes[1].barh(held, [shares[n] for n in held], color=[colours[n] for n in held])
    axes[1].set_xlabel("share of the target's crops among those kept (%)", fontsize=9)
    axes[1].set_xlim(0, 100)
    for axis in axes:
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110, format="png")


def save(results: Results, folder: Path) -> None:
    """Write table.md, selection.png and selection.json, and print the tables."""
    paths = [folder / name for name in ("table.md", "selection.png", "selection.json")]
    text = report(results)
    write_text(paths[0], text)
    with atomic_path(paths[1]) as temporary:
        draw(results, temporary)
    about = {"benchmark": "selection", "hardware": hardware(), "software": software()}
    write_json(paths[2], about | asdict(results))
    print(f"\n{text}")
    print(*paths, sep=", ")
