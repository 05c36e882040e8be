"""What is measured and said of the first steps after a start, which tell of all that follow."""

from dataclasses import dataclass

import accelerate

from transreid_ssl.logs import say
from transreid_ssl.processes import on_main
from transreid_ssl.training.ceiling import Ceiling
from transreid_ssl.training.clock import Clock, describe_first, describe_whole
from transreid_ssl.training.meter import Meter
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.sharding import is_sharded

_MEASURED = 10
"""Steps after the first that the time of a run is estimated by."""


@dataclass
class FirstSteps:
    """Looks at a training after each of its steps; speaks after the first, and ten steps later.

    Args:
        accelerator, objective, clock, meter, ceiling: The training's.
        begin: The step that it starts from, of ``total``.
        log_every: Steps between the lines that it logs anyway.
    """

    accelerator: accelerate.Accelerator
    objective: Objective
    clock: Clock
    meter: Meter
    ceiling: Ceiling
    begin: int
    total: int
    log_every: int

    def look(self, step: int) -> None:
        """After a step: the first is told apart, and ten more tell how long the run will take."""
        done = step - self.begin
        if done == 1:
            self._tell_first(step)
        if done == 1 + _MEASURED and step < self.total:
            self._say_whole(step)

    def _tell_first(self, step: int) -> None:
        """Say how long the first step took; the clock begins anew after it."""
        loss = None
        if self.meter.count:  # else it was skipped
            loss = self.meter.read(self.accelerator)["loss"]  # which waits for the device
        seconds, _ = self.clock.read(step)
        self._find_ceiling()
        if loss is not None:
            say(self.accelerator, describe_first(step, self.total, loss, seconds))

    def _find_ceiling(self) -> None:
        """On a GPU, so that lines of the log can say how much of what it can do is done."""
        if self.accelerator.device.type == "cuda" and not is_sharded(self.objective):
            with self.clock.untimed():  # on all processes, which would wait in their next step
                on_main(self.accelerator, lambda: self.ceiling.measure(self.objective, epoch=0))

    def _say_whole(self, step: int) -> None:
        """Say how long the run will take, unless a line of the log did meanwhile."""
        if (self.begin + 1) // self.log_every != step // self.log_every:
            return
        if self.meter.count:  # which waits for the device
            self.meter.read(self.accelerator)
        seconds = self.clock.peek(step)
        say(self.accelerator, describe_whole(step, self.total, seconds, _MEASURED))
