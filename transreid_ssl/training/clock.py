"""What the steps of a run take, and how that is said."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from transreid_ssl import logs

if TYPE_CHECKING:
    import accelerate


class Clock:
    """Seconds a step since the last reading; what happens in ``untimed`` is no training."""

    def __init__(self, step: int = 0) -> None:
        self._begin, self._step, self._waited = time.monotonic(), step, 0.0
        self.left_out: float = 0.0  # all that was ever spent in ``untimed``

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Time spent inside does not count."""
        begin = time.monotonic()
        yield
        passed = time.monotonic() - begin
        self._begin += passed
        self.left_out += passed

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside is waited for images, but for what is ``untimed`` in it."""
        begin, left_out = time.monotonic(), self.left_out
        yield
        self._waited += time.monotonic() - begin - (self.left_out - left_out)

    def steps(self, step: int) -> int:
        """How many steps, up to ``step``, were made since the last reading."""
        return step - self._step

    def peek(self, step: int) -> float:
        """Seconds that each step up to ``step`` took since the last reading, which goes on."""
        return (time.monotonic() - self._begin) / max(1, self.steps(step))

    def read(self, step: int) -> tuple[float, float]:
        """Seconds that each step up to ``step`` took, on the mean since the last call.

        And the share of them, 0 to 1, that was waited for images.
        """
        now = time.monotonic()
        passed = now - self._begin
        seconds = passed / max(1, self.steps(step))
        waited = self._waited / passed if passed > 0 else 0.0
        self._begin, self._step, self._waited = now, step, 0.0
        return seconds, waited


def progress_bar(accelerator: "accelerate.Accelerator", step: int, total: int) -> "tqdm[Any]":
    """A bar of the steps of a run, on a terminal of the main process that shows progress."""
    shown = accelerator.is_main_process and sys.stderr.isatty() and logs.is_shown(logging.INFO)
    return tqdm(total=total, initial=step, unit=" steps", disable=not shown, dynamic_ncols=True)


def show_beside(bar: "tqdm[Any] | None", values: dict[str, Any]) -> None:
    """Show what a line of the log tells of the steps of a run beside their bar, if there is one."""
    if bar is not None and {"loss", "images_per_second", "data_wait"} <= values.keys():
        speed, waited = rate(values["images_per_second"]), values["data_wait"]
        told = f"loss {values['loss']:.4f}, {speed} images/s, waits {waited:.0%}"
        bar.set_postfix_str(told, refresh=False)


def describe_progress(step: int, total: int, values: dict[str, float]) -> str:
    """A line of the log for people: loss, rate, speed and what is left of ``total`` steps."""
    speed, share = values["images_per_second"], values.get("ceiling_share")
    of_ceiling = f", {share:.0%} of the device's ceiling" if share is not None else ""
    return (
        f"step {step}/{total}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
        f"{rate(speed)} images/s (waits {values['data_wait']:.0%}{of_ceiling})  "
        f"{duration(values['step_seconds'] * (total - step))} left"
    )


def describe_first(step: int, total: int, loss: float, seconds: float) -> str:
    """The line after the first step since the start, which is no measure of those that follow."""
    return (
        f"step {step}/{total}  loss {loss:.4f}  the first step took {seconds:.1f} s: "
        "it warms up (and compiles), and counts in no rate"
    )


def describe_whole(step: int, total: int, seconds: float, of: int) -> str:
    """The line that says how long a run will take, by the ``of`` steps up to ``step``."""
    left = duration(seconds * (total - step))
    return (
        f"step {step}/{total}  {seconds:.3g} s a step by the last {of}: about "
        f"{duration(seconds * total)} for all {total:,} steps, {left} left; probes and "
        "checkpoints come on top"
    )


def rate(value: float) -> str:
    """With a digit behind the point where it is small."""
    return f"{value:,.{0 if value >= 10 else 1}f}"


def duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
