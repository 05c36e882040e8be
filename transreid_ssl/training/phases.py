"""Phases that a training begins with, and a word where one of them takes all of it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from transreid_ssl.training.settings import OptimizerSettings, RunSettings
from transreid_ssl.words import counted


@dataclass(frozen=True)
class Phase:
    """A part of a training that is meant to end before the training does.

    Args:
        setting: That says how long it is, by its dotted name.
        epochs: How long it is.
        meanwhile: What is so until it ends.
        share: Of a training, 0 to 1, that such a phase may well take.
        whole: Whether it is of whole epochs.
        least: What it cannot be shorter than, if that is not too long itself.
    """

    setting: str
    epochs: float
    meanwhile: str
    share: float
    whole: bool = True
    least: float = 0.0

    def takes(self, steps_per_epoch: int) -> int:
        """How many steps it takes."""
        epochs = math.ceil(self.epochs) if self.whole else self.epochs
        return round(epochs * steps_per_epoch)

    def instead(self, epochs: int) -> float:
        """How long it may well be in a training of so many epochs."""
        length = epochs * self.share
        if self.least < epochs:
            length = max(length, self.least)
        return math.floor(length) if self.whole else length


def of_optimizer(settings: OptimizerSettings) -> list[Phase]:
    """Those of the learning rate."""
    rises, stays = "the learning rate rises", "the learning rate stays at its peak"
    found = [Phase("optim.warmup_epochs", settings.warmup_epochs, rises, 0.1, settings.by_epoch)]
    if settings.schedule == "plateau":
        end = settings.plateau_epochs
        least = settings.warmup_epochs
        found.append(Phase("optim.plateau_epochs", end, stays, 0.5, settings.by_epoch, least))
    return found


def without_end(
    phases: Iterable[Phase], run: RunSettings, steps_per_epoch: int, group: str = ""
) -> str:
    """A line on those of the phases that take a whole training; "" where none does.

    Args:
        group: Of the settings on the command line, where they are those of a stage.
    """
    epochs, before = run.total_epochs, f"{group}." if group else ""
    found = [
        f"{phase.meanwhile} (--{before}{phase.setting} {phase.epochs:g}: give "
        f"{phase.instead(epochs):g})"
        for phase in phases
        if phase.takes(steps_per_epoch) >= epochs * steps_per_epoch
    ]
    if not found:
        return ""
    length = before + "epochs" if group else "run.extend_to" if run.extend_to else "run.epochs"
    return (
        f"note: in the whole run, {counted(epochs, 'epoch')}, {', and '.join(found)}; or give more "
        f"--{length}"
    )
