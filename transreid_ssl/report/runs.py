"""Runs as their folders tell of them."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transreid_ssl.errors import UserError
from transreid_ssl.outputs import BACKBONE, BEST, MODEL
from transreid_ssl.reading import read_object
from transreid_ssl.training.checkpoint import list_checkpoints
from transreid_ssl.training.config import flat
from transreid_ssl.training.ownership import BEGUN, is_taken
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.yaml_files import read_yaml
from transreid_ssl.words import counted

_PACE = 5  # lines
FINDINGS = "report.json"
"""What a page shows beside the settings and the metrics of its run."""


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        step: of the optimiser, the last that is known to have been made.
        epochs: that were asked for.
        steps_per_epoch: None where a run of an older version has not logged a line.
        state: "finished", "goes on" while a process trains in its folder, or "stopped".
    """

    step: int
    epochs: int | None
    steps_per_epoch: int | None
    state: str

    @property
    def is_finished(self) -> bool:
        return self.state == "finished"

    @property
    def total(self) -> int | None:
        """Steps of the whole run, where that is known."""
        known = self.steps_per_epoch and self.epochs
        return self.steps_per_epoch * self.epochs if known else None

    def describe(self) -> str:
        """In words: "120 steps, 12 epochs", or "stopped at step 120 of 600, epoch 12 of 60"."""
        if self.is_finished:
            made = self.epochs and f", {counted(self.epochs, 'epoch')}"
            return f"{counted(self.step, 'step')}{made or ''}"
        place = f"{'stopped' if self.state == 'stopped' else 'still going on,'} at step"
        if self.total is None:
            many = "epochs were" if self.epochs != 1 else "epoch was"
            asked = self.epochs and f"; {self.epochs:,} {many} asked for"
            return f"{place} {self.step:,}{asked or ''}"
        epoch = max(1, math.ceil(self.step / self.steps_per_epoch))
        return f"{place} {self.step:,} of {self.total:,}, epoch {epoch:,} of {self.epochs:,}"


class Run:
    """A run as its folder tells of it: settings, metrics, what it noted at its begin and end.

    Args:
        folder: of a run, finished or not.

    Raises:
        UserError: it is not the folder of a run, or what lies in it cannot be read.
    """

    path: Path
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    begun: dict[str, Any]
    found: dict[str, Any]

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        if not (self.path / "config.yaml").is_file():
            raise UserError(f"{folder}: not the folder of a run (it holds no config.yaml)")
        settings = read_yaml(self.path / "config.yaml")
        self.settings = flat(settings) if isinstance(settings, Mapping) else {}
        if not self.settings:
            raise UserError(f"{self.path / 'config.yaml'}: not the settings of a run")
        self.metrics = RunFolder(self.path, is_main=False).read_metrics()
        self.begun = _read_noted(self.path / BEGUN)
        self.found = _read_noted(self.path / FINDINGS)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def versions(self) -> str:
        """The software that the run was begun with."""
        with open(self.path / "config.yaml", encoding="utf-8", errors="replace") as file:
            first = file.readline()
        return first.removeprefix("#").strip() if first.startswith("#") else ""

    @property
    def results(self) -> list[str]:
        """The weights in the folder; while a run goes on the best ones at most."""
        return [name for name in (BACKBONE, MODEL, BEST) if (self.path / name).is_file()]

    @cached_property
    def progress(self) -> Progress:
        """How far it is: by its log, its checkpoints and whether it has left what it ends with."""
        logged = [line["step"] for line in self.metrics]
        folder = RunFolder(self.path, is_main=False)
        step = max([*logged, folder.newest_step() or 0])
        epochs = self.settings.get("run.extend_to") or self.settings.get("run.epochs")
        at, passed = self.series("epoch")
        an_epoch = round(at[-1] / passed[-1]) if passed and passed[-1] > 0 else None
        noted = self.begun.get("steps_per_epoch")
        an_epoch = an_epoch or (noted if isinstance(noted, int) and noted > 0 else None)
        left = {BACKBONE, MODEL} & set(self.results)
        # One that is prolonged has left the weights of its first end.
        ended = left and (not an_epoch or not epochs or step >= an_epoch * epochs)
        state = "finished" if ended else "goes on" if is_taken(self.path) else "stopped"
        return Progress(step, epochs, an_epoch, state)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of what was logged under a name."""
        pairs = [
            (line["step"], line[name])
            for line in self.metrics
            if isinstance(line.get(name), int | float)
        ]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def first_last(self, name: str) -> tuple[float, float] | None:
        """The first and the last value logged under a name."""
        _, values = self.series(name)
        return (values[0], values[-1]) if values else None

    def left(self) -> float | None:
        """Seconds of steps to the end, at the pace of the last lines; None if that is not known."""
        _, each = self.series("step_seconds")
        if self.progress.total is None or not each:
            return None
        return (self.progress.total - self.progress.step) * float(np.mean(each[-_PACE:]))

    def last_written(self) -> datetime:
        """When it was last at work: begun or gone on with, or at a line or a checkpoint."""
        found = [self.path / name for name in ("config.yaml", BEGUN, "metrics.jsonl")]
        found += list_checkpoints(self.path / "checkpoints")[-1:]
        times = [path.stat().st_mtime for path in found if path.is_file()]
        return datetime.fromtimestamp(max(times), UTC)

    def seconds(self) -> float:
        """What the logged steps took, without probes and checkpoints."""
        steps, each = self.series("step_seconds")
        return float(np.dot(np.diff(steps, prepend=0), each)) if steps else 0.0


def _read_noted(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = read_object(path)
    if found is None:
        raise UserError(
            f"{path}: damaged, or not what a run has written; remove it to make a page without it"
        )
    return found
