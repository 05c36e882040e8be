"""Whether a training is only to be measured: asked where it starts and where it would begin."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_STEPS: ContextVar[int] = ContextVar("steps", default=0)


@contextmanager
def measuring(steps: int) -> Iterator[None]:
    """Within it a training raises ``Measured`` after its first step and ``steps`` more."""
    token = _STEPS.set(steps)
    try:
        yield
    finally:
        _STEPS.reset(token)


def steps_to_measure() -> int:
    """After the first one; 0 where a training is to run."""
    return _STEPS.get()
