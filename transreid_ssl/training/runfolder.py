"""The folder of one run: its settings, metrics, checkpoints and results."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import yaml

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, write_text
from transreid_ssl.training.checkpoint import list_checkpoints, load_newest, save_checkpoint
from transreid_ssl.training.config import as_plain, differences, to_yaml

# What may change between two starts of a run without changing what it computes (threads may change
# the last digits of sums).
FREE_SETTINGS = {
    "run": {
        "num_workers",
        "num_threads",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_every",
        "overwrite",
        "timeout_minutes",
        "tracker",
    }
}


class RunFolder:
    """``outputs/<run>/`` with config.yaml, metrics.jsonl, checkpoints/ and what the recipe adds.

    Only the main process writes; every process may read.
    """

    def __init__(self, path: str | Path, is_main: bool = True) -> None:
        self.path = Path(path)
        self.is_main = is_main

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

        Raises:
            UserError: it belongs to another configuration, or holds something else.
        """
        if not self.is_main:
            return
        config_path = self.path / "config.yaml"
        if overwrite and config_path.is_file():
            shutil.rmtree(self.path)
        if config_path.is_file() and self._has_begun():
            self._check_same(config_path, config)
            return
        foreign = self.path.exists() and not config_path.is_file()
        if foreign and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(
                f"{self.path}: exists and is not the folder of a run; choose another --run.output"
            )
        write_text(config_path, to_yaml(config))

    def _has_begun(self) -> bool:
        """Whether there is anything to lose; a start that failed early leaves settings only."""
        return self.metrics_path.is_file() or self.checkpoints.is_dir()

    def _check_same(self, config_path: Path, config: Any) -> None:
        try:
            before = yaml.safe_load(config_path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(
                f"{config_path}: not readable as YAML; choose another --run.output"
            ) from error
        found = differences(_without_free(before or {}), _without_free(as_plain(config)))
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"{self.path}: belongs to a run with other settings: {'; '.join(found[:3])}{more}; "
                "choose another --run.output, or --run.overwrite true to begin anew"
            )

    def has_checkpoints(self) -> bool:
        """Whether there is a state to go on from."""
        return bool(list_checkpoints(self.checkpoints))

    def read_left_out(self) -> dict[str, Any]:
        """What ``write_left_out`` wrote for this run; {} before."""
        if not self._left_out.is_file():
            return {}
        try:
            return dict(json.loads(self._left_out.read_text(encoding="utf-8")))
        except ValueError as error:
            raise UserError(
                f"{self._left_out}: not readable as JSON; choose another --run.output, or "
                "--run.overwrite true to begin anew"
            ) from error

    def write_left_out(self, record: dict[str, Any]) -> None:
        """Keep which images of the pool the run leaves out."""
        write_text(self._left_out, json.dumps(record))

    def resume(self) -> dict[str, Any] | None:
        """The newest complete state, or None; metrics logged after it are dropped."""
        state = load_newest(self.checkpoints)
        if self.is_main and self.metrics_path.is_file():
            self._truncate_metrics(-1 if state is None else int(state["step"]))
        return state

    def _truncate_metrics(self, step: int) -> None:
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        write_text(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl (a kill may leave half a line at the end)."""
        if not self.metrics_path.is_file():
            return []
        lines = []
        for text in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def lines_with(self, name: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that hold ``name``; the same answer on every process."""
        return [line for line in self.read_metrics() if name in line]

    def has(self, step: int, name: str) -> bool:
        """Whether ``name`` was logged at ``step``."""
        return any(line["step"] == step for line in self.lines_with(name))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        if not self.is_main:
            return
        rounded = {name: _rounded(value) for name, value in values.items()}
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **rounded}) + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics_path}: writing failed ({error.strerror})") from error

    def save(self, step: int, state: dict[str, Any], keep: int, keep_every: int = 0) -> None:
        """Write a checkpoint (main process only)."""
        if self.is_main:
            save_checkpoint(self.checkpoints, step, {"step": step, **state}, keep, keep_every)

    def draw_curves(self) -> None:
        """Draw curves.png from metrics.jsonl (main process only)."""
        if self.is_main:
            from transreid_ssl.training.curves import draw_curves

            with atomic_path(self.path / "curves.png") as temporary:
                draw_curves(self.read_metrics(), temporary, title=self.path.name)


def _rounded(value: float) -> float | None:
    """Seven digits; null for what JSON has no number for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _without_free(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {k: v for k, v in value.items() if k not in FREE_SETTINGS.get(name, ())}
        if isinstance(value, dict)
        else value
        for name, value in config.items()
    }
