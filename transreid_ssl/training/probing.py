"""When a run measures its network, which was the best so far, and what came of it in the end."""

import shlex
from collections.abc import Callable
from typing import Any

import accelerate

from transreid_ssl.processes import on_main
from transreid_ssl.training.best import ON, BestNetwork, best_line
from transreid_ssl.training.probe import RetrievalProbe, before_and_after
from transreid_ssl.training.runfolder import RunFolder, rounded


class Probing:
    """The probes of a run. All processes call the same methods.

    Args:
        accelerator: Its main process knows what was measured.
        run: Where that is logged.
        last_step: Of the run, after which there is a probe as there is before the first step.
        probe: What measures; None: nothing does.
        every: Steps between further probes; 0: there are none.
        keep_best: Called on every process where a network has more of the probe's first figure
            than all before it.
    """

    accelerator: accelerate.Accelerator
    run: RunFolder
    last_step: int
    probe: RetrievalProbe | None
    every: int
    keep_best: Callable[[], None] | None

    def __init__(
        self,
        accelerator: accelerate.Accelerator,
        run: RunFolder,
        last_step: int,
        probe: RetrievalProbe | None,
        every: int,
        keep_best: Callable[[], None] | None,
    ) -> None:
        self.accelerator, self.run, self.last_step = accelerator, run, last_step
        self.probe, self.every, self.keep_best = probe, every, keep_best

    @property
    def figure(self) -> str:
        """The logged value that the best network has most of."""
        assert self.probe is not None
        return f"probe/{next(iter(self.probe.figures))}"

    def is_due(self, step: int) -> bool:
        """Whether the network is measured after this step."""
        if self.probe is None:
            return False
        return step in (0, self.last_step) or (self.every > 0 and step % self.every == 0)

    def is_missing(self, step: int) -> bool:
        """Whether that is so and was not done: a stop may come between a checkpoint and its
        probe."""
        if not self.is_due(step):
            return False
        return not on_main(self.accelerator, lambda: self.run.has(step, self.figure))

    def measure(self, step: int) -> dict[str, Any]:
        """Measure, and keep the network if it is the best; what the main process is to log."""
        assert self.probe is not None
        values = self.probe(step)
        if step != self.last_step:  # a page shows those of the end; meanwhile they only take room
            self.probe.features = None
        if self.keep_best and on_main(self.accelerator, lambda: self._is_best(values)):
            self.keep_best()
        return values

    def _is_best(self, values: dict[str, Any]) -> bool:
        """Of equal ones the first is the best, and equal is what is logged as equal: so that the
        network that is kept is the one that the log tells."""
        best = best_line(self._lines(), self.figure, values.get(ON))
        value = rounded(values[self.figure])
        return value is not None and (best is None or value > best[self.figure])

    def _lines(self) -> list[dict[str, Any]]:
        """Those of metrics.jsonl that hold the figure, as a number."""
        lines = [] if self.probe is None else self.run.lines_with(self.figure)
        return [line for line in lines if line[self.figure] is not None]

    def describe(self) -> str:
        """A table of the network before and after; "" if none was measured."""
        lines = self._lines()
        return before_and_after(lines, self.probe) if self.probe and lines else ""

    def describe_best(self, kept: BestNetwork) -> str:
        """Which network was the best, and how it is used; "" where it was not kept.

        A run that kept none at first, or that was probed otherwise, may have kept another.
        """
        lines = self._lines()
        best = best_line(lines, self.figure, lines[-1].get(ON)) if lines else None
        if best is None or best["step"] != kept.step:
            return ""
        assert self.probe is not None
        title = next(iter(self.probe.figures.values()))
        value, last = (f"{title} {line[self.figure]:.1f} %" for line in (best, lines[-1]))
        if best["step"] == lines[-1]["step"]:
            return f"the last network is the best, by the probe: {value}"
        if value == last:
            return f"the last network is as good as the best, by the probe: {value}"
        before = " (before training)" * (best["step"] == 0)
        return (
            f"the best network, by the probe, is that of step {best['step']:,}{before}: {value}, "
            f"and the last has {last}; to take it: --weights {shlex.quote(str(kept.path))}"
        )
