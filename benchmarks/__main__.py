"""Every benchmark at a size for this machine, in ten minutes or so: one table, one picture.

    python -m benchmarks                       # writes outputs/benchmarks/{results.json,table.md,…}
    python -m benchmarks --only views counts

Each part is the program of its name (``python -m benchmarks.NAME`` has larger sizes, and says more)
in a process of its own; what it prints goes to NAME.log. Where there is a GPU, ``gpu`` is a part.
A part that fails, or is still at work when the minutes are over, is named in the table, and the
exit code is 1. ``ratio`` is how many times better ours is than its plain baseline in the same run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.reporting import hardware, heading, row
from transreid_ssl import command
from transreid_ssl.files import write_json, write_text
from transreid_ssl.palette import BLUE

OUT = "--out={out}"
PARTS = {
    "views": ("ten crops of an image, one core", ["--images=20", "--rounds=3"]),
    "training_step": ("DINO step of ViT-S/16+ICS", ["--batch-size=2", "--rounds=2"]),
    "counts": ("the same, operations on a GPU", []),
    "evaluation": ("mAP and CMC, 1,684 x 7,956", ["--sizes", "1684x7956", OUT]),
    "reranking": ("re-ranking of 4,000 images", ["--sizes", "4000", OUT]),
    "clustering": ("pseudo labels of 4,000 images", ["--sizes", "4000", OUT]),
    "scoring": ("CFS of crops, with ViT-S/16+ICS", ["--images=128"]),
    "selection.scale": (
        "200,000 rows of features scored",
        ["--rows=200000", "--methods", "density-ratio"],
    ),
    "compiled": ("what compiled blocks of ViT-S/16+ICS keep", ["--memory", "0.3"]),
    "launches": ("what is started on a GPU to fine-tune", ["--trainings", "labels"]),
    "gpu": ("DINO steps, fine-tuning on a GPU", [OUT, "--minutes={minutes}"]),
}
"""What is measured, and options that make it short."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts, then write and say the table."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    found = [run(name, options.out, end) for name in options.only]
    machine = hardware() | {"date": date.today().isoformat()}
    write_json(options.out / "results.json", {"hardware": machine, "parts": found})
    text = "\n".join(table(found, machine))
    write_text(options.out / "table.md", text + "\n")
    draw(found, options.out / "ratios.png", f"{machine['gpu'] or machine['cpu']}")
    print(f"\n{text}\n\n{options.out}: results.json, table.md, ratios.png")
    if any("failed" in part for part in found):
        raise SystemExit(1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = [name for name in PARTS if name != "gpu" or torch.cuda.is_available()]
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=here, metavar="NAME")
    parser.add_argument("--minutes", type=float, default=10, help="when to give up what is left")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    return parser.parse_args(arguments)


def run(name: str, out: Path, end: float) -> dict[str, Any]:
    """The last line of a benchmark, its name and seconds; or "failed", which says why."""
    print(f"{name}: {PARTS[name][0]} …", end=" ", flush=True)
    begin = time.monotonic()
    left = max(0.0, (end - begin) / 60 - 1)  # a minute is for the row that is begun last
    options = [option.format(out=out, minutes=left) for option in PARTS[name][1]]
    found: dict[str, Any] = {"name": name}
    log = out / f"{name}.log"
    try:
        with open(log, "w", encoding="utf-8") as file:
            code = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{name}", *options], check=False, stdout=file,
                stderr=subprocess.STDOUT, timeout=max(1, end - begin),
            ).returncode  # fmt: skip
        with suppress(ValueError, IndexError):  # one that failed may not have come to its figures
            found |= json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        failed = "; ".join(found.pop("failed", []))
        if code:
            found["failed"] = failed or f"exit code {code}, see {log}"
    except subprocess.TimeoutExpired:
        found["failed"] = "the minutes were over; raise --minutes"
    found["took"] = round(time.monotonic() - begin, 1)
    print(found.get("failed") or told(found), flush=True)
    return found


def told(part: dict[str, Any]) -> str:
    """The ratio, where there is one."""
    return "done" if part["ratio"] is None else f"{part['ratio']:.1f} times its baseline"


def table(found: Sequence[dict[str, Any]], machine: dict[str, Any]) -> list[str]:
    """Markdown."""
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"
    lines = [f"{where}, torch {machine['torch']}, {machine['date']}", ""]
    lines += heading("benchmark", "of", "ratio", "took, s")
    for part in found:
        ratio = part.get("ratio")
        said = "–" if ratio is None else f"{ratio:.1f}"
        if failed := part.get("failed"):
            said = failed if ratio is None else f"{said}; {failed}"
        lines.append(row(f"`{part['name']}`", PARTS[part["name"]][0], said, f"{part['took']:.0f}"))
    return lines


def draw(found: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """A bar for each ratio, beside a line at 1."""
    from matplotlib.figure import Figure  # slow to import, and parts run before

    ratios = {part["name"]: part["ratio"] for part in found if part.get("ratio")}
    figure = Figure(figsize=(7, 1 + 0.4 * max(1, len(ratios))), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(list(ratios), list(ratios.values()), color=BLUE)
    axis.bar_label(bars, fmt=" %.1f", fontsize=9)
    axis.axvline(1, color="black", lw=1)
    axis.invert_yaxis()
    axis.set(xlabel="times as good as a plain baseline in the same run", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command.run(main)
