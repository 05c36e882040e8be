"""What the steps of a run take, and how that is said."""

import contextlib
import math
import time
from collections.abc import Iterator


class Clock:
    """Seconds a step since the last reading; what happens in ``untimed`` is no training."""

    def __init__(self, step: int = 0) -> None:
        self._begin, self._step = time.monotonic(), step

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Time spent inside does not count."""
        begin = time.monotonic()
        yield
        self._begin += time.monotonic() - begin

    def read(self, step: int) -> float:
        """Seconds that each step up to ``step`` took, on the mean since the last call."""
        now = time.monotonic()
        seconds = (now - self._begin) / max(1, step - self._step)
        self._begin, self._step = now, step
        return seconds


def describe_progress(step: int, total: int, values: dict[str, float]) -> str:
    """A line of the log for people: loss, rate, speed and what is left of ``total`` steps."""
    speed = values["images_per_second"]
    return (
        f"step {step}/{total}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
        f"{speed:.{0 if speed >= 10 else 1}f} images/s  "
        f"{_duration(values['step_seconds'] * (total - step))} left"
    )


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
