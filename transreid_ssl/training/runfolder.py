"""The folder of one run: its settings, metrics, checkpoints and results."""

import json
import math
import time
from pathlib import Path
from typing import Any

from transreid_ssl import logs
from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, sweep, write_text
from transreid_ssl.reading import read_object
from transreid_ssl.training.checkpoint import (
    list_checkpoints,
    newest_sound,
    save_checkpoint,
    step_of,
)
from transreid_ssl.training.config import to_yaml
from transreid_ssl.training.ownership import (
    check_same,
    read_settings,
    refuse_foreign,
    remove_run,
    take,
)
from transreid_ssl.training.settings import RunSettings
from transreid_ssl.words import counted


def goes_on(settings: RunSettings) -> bool:
    """Whether a run of these settings goes on from a checkpoint of its own, and not from others."""
    return not settings.overwrite and RunFolder(settings.output).has_checkpoints()


class RunFolder:
    """``outputs/<run>/`` with config.yaml, metrics.jsonl, checkpoints/ and what the recipe adds.

    Only the main process writes; every process may read.

    Args:
        stage: What the names of values begin with in a tracker, which all stages of a recipe share.
        group: Of the stage's settings on the command line; "": they stand by themselves.
    """

    stage: str
    group: str
    first_tracked_step: int
    path: Path

    def __init__(
        self, path: str | Path, is_main: bool = True, stage: str = "", group: str = ""
    ) -> None:
        self.path = Path(path)
        self.is_main = is_main
        self.stage, self.group = stage, group
        self.first_tracked_step = 0  # the stages' steps follow one another
        self._drawn = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _left_out(self) -> Path:
        return self.path / "left_out.json"

    def claim(self, config: Any, overwrite: bool = False) -> None:
        """Take the folder for these settings, or check that it is theirs already.

        It stays taken until the process ends, however it ends.

        Raises:
            UserError: another process trains in it, it belongs to another configuration, or it
                holds what no run has written.
        """
        if not self.is_main:
            return
        refuse_foreign(self.path)
        take(self.path)
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        if overwrite:
            remove_run(self.path)
        if self._has_begun():
            check_same(self.path, config)
        else:
            write_text(self.path / "config.yaml", to_yaml(config))

    def begun_with(self) -> dict[str, Any] | None:
        """The settings of the run that was begun here; None where there is none.

        Raises:
            UserError: they cannot be read.
        """
        return read_settings(self.path) if self._has_begun() else None

    def _has_begun(self) -> bool:
        """Whether there is anything to lose; a start that failed early leaves settings only."""
        begun = self.metrics_path.is_file() or self.checkpoints.is_dir()
        return begun and (self.path / "config.yaml").is_file()

    def has_checkpoints(self) -> bool:
        """Whether there is a state to go on from."""
        return bool(list_checkpoints(self.checkpoints))

    def read_left_out(self) -> dict[str, Any]:
        """What ``write_left_out`` wrote for this run; {} before."""
        if not self._left_out.is_file():
            return {}
        record = read_object(self._left_out)
        if record is None or not {"pool", "indices", "note"} <= record.keys():
            raise UserError(
                f"{self._left_out}: not what a run has written; choose another --run.output, or "
                "--run.overwrite true to begin anew"
            )
        return record

    def write_left_out(self, record: dict[str, Any]) -> None:
        """Keep which images of the pool the run leaves out."""
        write_text(self._left_out, json.dumps(record))

    def write_not_finite(self, step: int, names: list[str]) -> Path:
        """Keep which images a step saw that was not finite."""
        path = self.path / f"not_finite_step_{step:08d}.txt"
        write_text(path, "".join(f"{name}\n" for name in names))
        return path

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest sound checkpoint or None, and what there is to say about what is left out.

        Metrics logged after it are dropped. For the main process.
        """
        path, notes = newest_sound(self.checkpoints)
        if self.metrics_path.is_file():
            lines, foreign = self._metrics()
            if foreign:
                said = counted(foreign, "line is", "lines are")
                notes.append(f"{self.metrics_path}: {said} not of a run; left out")
            step = -1 if path is None else step_of(path)
            kept = [line for line in lines if line["step"] <= step]
            write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept))
        return path, notes

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        found = list_checkpoints(self.checkpoints)
        return step_of(found[-1]) if found else None

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl that are a run's."""
        return self._metrics()[0]

    def _metrics(self) -> tuple[list[dict[str, Any]], int]:
        """The lines of metrics.jsonl, and how many are none; half a line at its end is a kill's."""
        if not self.metrics_path.is_file():
            return [], 0
        text = self.metrics_path.read_bytes().decode("utf-8", errors="replace")
        whole, _, _ = text.rpartition("\n")
        found = [_metrics_line(line) for line in whole.splitlines() if line.strip()]
        lines = [line for line in found if line is not None]
        return lines, len(found) - len(lines)

    def lines_with(self, name: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that hold ``name``; the same answer on every process."""
        return [line for line in self.read_metrics() if name in line]

    def has(self, step: int, name: str) -> bool:
        """Whether ``name`` was logged at ``step``."""
        return any(line["step"] == step for line in self.lines_with(name))

    def log_unless(self, step: int, values: dict[str, Any], name: str) -> bool:
        """``log``, if there are values, unless ``name`` was logged at this step; whether it was."""
        known = bool(name) and self.has(step, name)
        if values and not known:
            self.log(step, values)
        return known

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl: numbers, and text."""
        if not self.is_main:
            return
        line = {name: rounded(value) for name, value in values.items()}
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics_path}: writing failed ({error.strerror})") from error

    def save(self, step: int, state: dict[str, Any], keep: int, keep_every: int = 0) -> None:
        """Write a checkpoint (main process only)."""
        if self.is_main:
            save_checkpoint(self.checkpoints, step, {"step": step, **state}, keep, keep_every)
            logs.RUN.debug(f"checkpoint of step {step} written in {self.checkpoints}")

    def draw_curves(self, at_most_every: float = 0.0) -> None:
        """Draw curves.png from metrics.jsonl (main process only).

        Nothing is drawn within ``at_most_every`` seconds of the start or the last drawing: it takes
        a second, which is most of a short run.
        """
        if self.is_main and time.monotonic() - self._drawn >= at_most_every:
            self._drawn = time.monotonic()
            from transreid_ssl.training.curves import draw_curves

            with atomic_path(self.path / "curves.png") as temporary:
                draw_curves(self.read_metrics(), temporary, title=self.path.name)


def rounded(value: Any) -> Any:
    """A value as metrics.jsonl keeps it: of seven digits; None for what JSON has no number for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _metrics_line(text: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, or None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None
