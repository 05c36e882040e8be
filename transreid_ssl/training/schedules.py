"""Schedules: pure functions of the step, so that any step of a run can be replayed."""

import math


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` (progress 0) to ``end`` (progress 1)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * progress))


def warmup_cosine(
    step: int,
    *,
    peak: float,
    end: float,
    total_steps: int,
    warmup_steps: int = 0,
    start: float = 0.0,
) -> float:
    """Linear warm-up from ``start`` to ``peak``, reached on the last warm-up step, then a cosine.

    DINO's schedule for the learning rate; without warm-up also for its weight decay and its teacher
    momentum. ``end`` would be reached at ``total_steps``, one past the last step.
    """
    if step < warmup_steps:
        return start + (peak - start) * step / max(1, warmup_steps - 1)
    return cosine((step - warmup_steps) / max(1, total_steps - warmup_steps), peak, end)


def linear(step: float, *, start: float, end: float, duration: float) -> float:
    """A straight line from ``start`` to ``end`` over ``duration``, then constant."""
    if duration <= 0 or step >= duration:
        return end
    return start + (end - start) * step / duration
