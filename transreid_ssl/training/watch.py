"""Stops a run whose numbers are not finite, explode or collapse, with what was good kept."""

from collections.abc import Iterable, Sequence
from typing import Any

import accelerate
from accelerate.utils import gather_object
from torch import Tensor

from transreid_ssl.errors import UserError
from transreid_ssl.processes import on_main
from transreid_ssl.training.health import CollapseWatch, all_finite
from transreid_ssl.training.meter import Meter
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.settings import RunSettings
from transreid_ssl.training.sharding import norms

EXPLODED = 1000.0
"""Growth of the norm of all weights, since the run began, that no training that works has."""


class Watch:
    """Looks at what a run logs and at what it is about to keep.

    Args:
        accelerator: Its processes decide together.
        run: Where the names of the images of a bad step go.
        settings: What counts as collapsed.
        meter: What the steps since the last logged line have given.
        parameters: The trained weights, as they are when the run begins.
        image_names: By the "index" of a batch; None: nobody knows them.
    """

    accelerator: accelerate.Accelerator
    run: RunFolder
    meter: Meter
    parameters: list[Tensor]
    image_names: Sequence[str] | None
    largest_norm: float
    collapse: CollapseWatch

    def __init__(
        self,
        accelerator: accelerate.Accelerator,
        run: RunFolder,
        settings: RunSettings,
        meter: Meter,
        parameters: Iterable[Tensor],
        image_names: Sequence[str] | None = None,
    ) -> None:
        self.accelerator, self.run, self.meter = accelerator, run, meter
        self.parameters, self.image_names = list(parameters), image_names
        self.largest_norm = EXPLODED * max(1.0, float(norms(self.parameters).norm()))
        self.collapse = CollapseWatch(settings.collapse_spread, settings.collapse_patience)
        self._steps: list[list[Tensor]] = []

    def begin_step(self) -> None:
        """The next batches are of another step."""
        self._steps.append([])

    def note(self, batch: dict[str, Any]) -> None:
        """Remember which images a micro-batch is of, until ``forget``."""
        if self.image_names is not None and "index" in batch:
            self._steps[-1].append(batch["index"])

    def forget(self) -> None:
        """A line was logged: what was noted until here was good."""
        self._steps.clear()

    def check_finite(self, step: int) -> None:
        """Raise ``UserError`` if a step since the last logged line, up to ``step``, was not finite.

        The names of its images are written to the run folder.
        """
        bad = self.meter.first_bad(self.accelerator)
        if bad is None:
            return
        number = step - self.meter.count + 1 + bad
        raise UserError(
            f"{self.run.path}: the loss or its gradient was not finite in step {number}"
            f"{self._write_names(bad, number)}; {self.kept()}: lower --optim.lr, or use "
            '--run.precision "no", with another --run.output; or go on here with '
            "--run.not_finite skip, which leaves such steps out"
        )

    def _write_names(self, position: int, step: int) -> str:
        """Write which images the step saw, on all processes; says where, or ""."""
        if self.image_names is None:
            return ""
        indices = [i for batch in self._steps[position] for i in batch.tolist()]
        names = gather_object([self.image_names[i] for i in indices])
        path = on_main(self.accelerator, lambda: self.run.write_not_finite(step, names))
        return f" (its images: {path})"

    def check(self, step: int, values: dict[str, float]) -> None:
        """Raise ``UserError`` if the values of a line of the log are not those of a sound run."""
        if not values["weight_norm"] <= self.largest_norm:
            raise UserError(
                f"{self.run.path}: the weights have exploded: their norm is "
                f"{values['weight_norm']:.1e} at step {step}; {self.kept()}: lower --optim.lr, "
                "with another --run.output"
            )
        if self.collapse.look(values.get("feature_spread")):
            self.give_up(step)

    def check_state(self, step: int, state: dict[str, Any]) -> None:
        """Raise ``UserError`` if a state that is about to be kept holds what is not finite."""
        if not all_finite(state):
            raise UserError(
                f"{self.run.path}: the update of step {step} or one before has left weights that "
                f"are not finite; {self.kept()}: lower --optim.lr, with another --run.output"
            )

    def check_end(self, step: int) -> None:
        """Raise ``UserError`` if the run ends with features that have collapsed."""
        if self.collapse.low:
            self.give_up(step)

    def give_up(self, step: int) -> None:
        """Raise the ``UserError`` of collapsed features."""
        raise UserError(
            f"{self.run.path}: {self.collapse.describe(step)}; {self.kept()}: lower --optim.lr or "
            "the teacher temperature, or raise the batch size, with another --run.output"
        )

    def kept(self) -> str:
        """What there is to go back to."""
        newest = self.run.newest_step()
        if newest is None:
            return "no checkpoint was written"
        return f"the checkpoint of step {newest}, from before, is kept"
