"""The network of a run's best probe: which it is by the log, and the file that it is kept in."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path, link_or_copy
from transreid_ssl.models import read_spec
from transreid_ssl.training.runfolder import RunFolder

ON = "probe/on"
"""What is logged of the set that was looked at."""


def best_line(
    lines: Iterable[Mapping[str, Any]], figure: str, on: str | None
) -> Mapping[str, Any] | None:
    """The first line with the most of a figure on a set; None if no line has it.

    A run may go on with another probe: figures of two sets are not compared.
    """
    told = [line for line in lines if line.get(figure) is not None and line.get(ON) == on]
    return max(told, key=lambda line: line[figure], default=None)


class BestNetwork:
    """The file of the best network, which is always one that metrics.jsonl tells of.

    A run that goes on drops the metrics after its checkpoint and makes their steps again, perhaps
    not to the same figures, or ends before them. So the network that was the best at a checkpoint
    is put aside, in the folder of the checkpoints, when a better one is written, and comes back
    with that checkpoint. For the main process.

    Args:
        run: Whose network it is.
        name: Of the file.
    """

    run: RunFolder
    path: Path

    def __init__(self, run: RunFolder, name: str) -> None:
        self.run, self.path = run, run.path / name
        self._aside = run.checkpoints / name

    @property
    def step(self) -> int | None:
        """Of which step the network in the file is; None where there is none."""
        return step_in(self.path)

    def replace(self, save: Callable[[], None]) -> None:
        """Let ``save`` write another network into the file."""
        step, checkpoint = self.step, self.run.newest_step()
        if step is not None and checkpoint is not None and step <= checkpoint:
            with atomic_path(self._aside) as temporary:
                temporary.unlink()
                link_or_copy(self.path, temporary)
        save()

    def follow_log(self) -> str:
        """Make the file one that the log tells of, before a run goes on; what there is to say."""
        told = {line["step"] for line in self.run.lines_with(ON)}
        if (step := self.step) in told:
            return ""
        if step_in(self._aside) in told:
            os.replace(self._aside, self.path)
            return ""
        newest = self.run.newest_step()
        if step is None or (newest is not None and step <= newest):
            return ""  # its step is not made again: the log was lost, and the network stays
        self.path.unlink()
        if newest is None:  # of a run that begins anew
            return ""
        return (
            f"{self.path}: was of step {step:,}, which the run makes again, and is removed; the "
            "best network of the steps before was not kept"
        )

    def end(self) -> None:
        """Remove what a run that has ended does not go back to."""
        self._aside.unlink(missing_ok=True)


def step_in(file: Path) -> int | None:
    """Of which step the network in a weights file is; None where the file is not, or damaged."""
    try:
        return read_spec(file).provenance.get("step") if file.is_file() else None
    except UserError:
        return None
