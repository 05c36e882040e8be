"""The page of a run: what was trained on what, what came of it, and how long it took."""

import json
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transreid_ssl.data import LabelledImages, Pool
from transreid_ssl.files import write_text
from transreid_ssl.outputs import BEST
from transreid_ssl.report import findings
from transreid_ssl.report.page import PAGE, write_or_warn, write_page
from transreid_ssl.report.runs import FINDINGS, Run
from transreid_ssl.report.sections import TITLES, Chapter, chapters
from transreid_ssl.retrieval import PairCounts
from transreid_ssl.training import RetrievalProbe, TrackProbe
from transreid_ssl.training.best import ON, best_line, step_in
from transreid_ssl.training.clock import duration
from transreid_ssl.training.loop import Trainer
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.words import counted


def write_run_page(folder: str | Path, out: str | Path | None = None) -> Path:
    """Make the page of a run anew from what its folder holds, and write it there or to ``out``.

    Raises:
        UserError: not the folder of a run, a damaged file in it, or it cannot be written.
    """
    run = Run(folder)
    return write_page(out or run.path / PAGE, "run.html", **content(run))


def content(run: Run) -> dict[str, Any]:
    """What the template ``run.html`` is given."""
    found: list[Chapter] = chapters(run)
    return {
        "kind": "Report of a run",
        "title": run.name,
        "chapters": found,
        "facts": facts(run),
        "settings": list(run.settings.items()),
        "versions": run.versions,
    }


def facts(run: Run) -> dict[str, str]:
    """What was run on what, in words."""
    noted = (part.get("made") for part in (run.begun, run.found))
    made = {name: told for part in noted if isinstance(part, dict) for name, told in part.items()}
    get = run.settings.get
    images = made.get("images") or _images(run.settings)
    sized = get("model.img_size")
    size = f", {sized[0]} × {sized[1]} pixels (height × width)" if isinstance(sized, list) else ""
    found = {
        "Method": made.get("method"),
        "Images": images,
        "Network": f"{get('model.name')}{size}" if get("model.name") else None,
        "Began with": get("model.weights"),
        "Evaluated on": made.get("probed"),
        "Length": f"{run.progress.describe()}{_of_images(get('run.batch_size'))}",
        "Took": f"{duration(run.seconds())} of training steps" if run.seconds() else None,
        "Best network": _best(run),
        "Machine": made.get("machine"),
        **({"Ended": made.get("ended")} if run.progress.is_finished else _what_is_left(run)),
        "Results": ", ".join(run.results) or None,
    }
    return {name: str(value) for name, value in found.items() if value}


def _what_is_left(run: Run) -> dict[str, str | None]:
    """When a run that is not finished was stopped, what is left of it, and how it goes on."""
    progress, seconds = run.progress, run.left()
    left = None
    if progress.total is not None:
        left = counted(progress.total - progress.step, "step")
        if seconds is not None:
            left += f", about {duration(seconds)} at the pace of the last lines; probes come on top"
    if progress.state != "stopped":
        return {"Ended": "not yet", "Left": left}
    again = "give the command that began it once more"
    if command := run.begun.get("command"):
        again += f", in the same folder: {command}"
    kept = RunFolder(run.path, is_main=False).newest_step()
    begin = "from its beginning" if kept is None else f"after step {kept:,}, of the last checkpoint"
    when = run.last_written().strftime("%Y-%m-%d %H:%M UTC")
    return {
        "Ended": f"not yet; stopped at about {when}, when it last wrote",
        "Left": left,
        "To go on": f"{again} (it goes on {begin})",
    }


def _best(run: Run) -> str | None:
    """Which network was the best, by the first figure of the last probe, and where it is."""
    last = next((line for line in reversed(run.metrics) if ON in line), {})
    figure = next((name for name in TITLES if last.get(f"probe/{name}") is not None), None)
    if figure is None:
        return None
    best = best_line(run.metrics, f"probe/{figure}", last[ON])
    assert best is not None  # the last one, if no other
    value, ended = (f"{line[f'probe/{figure}']:.1f} %" for line in (best, last))
    beside = f" (the last probe, at step {last['step']:,}: {ended})" * (best != last)
    file = f"; in {BEST}" * (step_in(run.path / BEST) == best["step"])
    return f"that of step {best['step']:,}, by {TITLES[figure]}: {value}{beside}{file}"


def _of_images(batch_size: Any) -> str:
    return f"; {batch_size} images a step" if batch_size else ""


def _images(settings: Mapping[str, Any]) -> str | None:
    """Pool or set by the names that settings give it."""
    for name in ("data.pool", "data.root", "data.name", "target.root", "target.name"):
        if settings.get(name):
            return str(settings[name])
    return None


# -- at the end of a run


def leave_page(
    trainer: Trainer,
    result: Path,
    images: Pool | LabelledImages,
    clusters: np.ndarray | None = None,
) -> None:
    """Write what a run has come to, and its page, or warn. For the main process.

    Args:
        trainer: of the run, at its end.
        result: the weights that it has left.
        images: what it was trained on.
        clusters: int64 (N,), the last ones of these images, if there are any.
    """
    folder = trainer.run.path

    def make() -> Path:
        probe = trainer.probing.probe
        if probe is None or probe.features is not None or not (folder / FINDINGS).is_file():
            found = find(trainer, result, images, clusters)
            write_text(folder / FINDINGS, json.dumps(found))
        return write_run_page(folder)

    write_or_warn(make)


def find(
    trainer: Trainer,
    result: Path,
    images: Pool | LabelledImages,
    clusters: np.ndarray | None = None,
) -> dict[str, Any]:
    """What ``report.json`` holds; arguments and errors as of ``leave_page``."""
    probe = trainer.probing.probe
    found: dict[str, Any] = {
        "made": {
            "method": trainer.objective.name,
            "images": images.describe() if isinstance(images, Pool) else images.pool.describe(),
            "probed": probe.described if probe else None,
            "machine": _machine(trainer),
            "memory": _peak_memory(),
            "ended": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
    }
    if probe is not None and probe.features is not None:
        found["retrieval"] = _of_probe(probe)
    found["attention"] = findings.of_attention(result, images)
    if clusters is not None and isinstance(images, LabelledImages):
        found["clusters"] = findings.of_clusters(clusters, images)
    return found


def _of_probe(probe: RetrievalProbe) -> dict[str, Any]:
    """What the last probe has found, with labels or by pairs that tracks are sure of."""
    if isinstance(probe, TrackProbe):
        sides = probe.pairs.similarities(probe.features[0].numpy())
        return {"roc": findings.roc_of(PairCounts.of(*sides))}
    return findings.of_retrieval(*probe.features, probe.protocol, probe.accelerator.device)


def _machine(trainer: Trainer) -> str:
    accelerator = trainer.accelerator
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    count = accelerator.num_processes
    threads = torch.get_num_threads()
    each = f" of {counted(threads, 'thread')}" if device.type == "cpu" else ""
    precision = accelerator.mixed_precision.replace("no", "float32")
    return f"{name}, {counted(count, 'process', 'processes')}{each}, {precision}"


def _peak_memory() -> dict[str, int]:
    """The most bytes that this process held, of the machine and of its GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"machine": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.max_memory_allocated()
    return found
