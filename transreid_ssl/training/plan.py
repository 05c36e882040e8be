"""How long a run is, and which learning rate and weight decay each of its steps uses."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from transreid_ssl.training.schedules import cosine, linear, warmup_cosine
from transreid_ssl.training.settings import OptimizerSettings, RunSettings


@dataclass(frozen=True)
class Plan:
    """How long a run is, and what each step uses.

    Args:
        steps_per_epoch: Optimiser steps an epoch.
        epochs: Passes over the data.
        lr: Learning rate by step; where some parameters have another peak it is asked with what
            the peak is multiplied by besides.
        weight_decay: Weight decay by step, for groups marked ``decay``; None: the optimiser's.
        clip: Largest gradient norm (0: none), and whether of each parameter by itself.
    """

    steps_per_epoch: int
    epochs: int
    lr: Callable[..., float]
    weight_decay: Callable[[int], float] | None = None
    clip: float = 0.0
    clip_per_parameter: bool = False

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def apply(self, groups: Iterable[dict[str, Any]], step: int) -> None:
        """Give the groups of an optimiser's parameters what they use in a step."""
        for group in groups:
            peak_scale = group.get("peak_scale", 1.0)
            rate = self.lr(step) if peak_scale == 1 else self.lr(step, peak_scale)
            group["lr"] = rate * group.get("lr_scale", 1.0)
            if self.weight_decay is not None and group.get("decay", False):
                group["weight_decay"] = self.weight_decay(step)


def make_plan(settings: OptimizerSettings, run: RunSettings, steps_per_epoch: int) -> Plan:
    """The schedules that the settings ask for, over the length of a run."""
    epochs = run.total_epochs
    total = steps_per_epoch * epochs
    peak = settings.lr * (run.batch_size / settings.lr_batch if settings.lr_batch else 1.0)

    def lr(step: int, peak_scale: float = 1.0) -> float:
        epoch = step // steps_per_epoch if settings.by_epoch else step / steps_per_epoch
        return learning_rate(epoch, epochs, settings, peak, peak_scale)

    def cosine_after_warmup(step: int, peak_scale: float = 1.0) -> float:
        return warmup_cosine(
            step, peak=peak_scale * peak, start=settings.warmup_start * peak,
            end=settings.lowest(peak), total_steps=total,
            warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
        )  # fmt: skip

    if settings.schedule == "cosine" and not (settings.by_epoch or settings.whole_cosine):
        lr = cosine_after_warmup
    decay = None
    if settings.weight_decay_end is not None:
        start, end = settings.weight_decay, settings.weight_decay_end
        decay = partial(warmup_cosine, peak=start, end=end, total_steps=total)
    clip = settings.clip, settings.clip_per_parameter
    return Plan(steps_per_epoch, epochs, lr, decay, *clip)


def learning_rate(
    epoch: float, epochs: int, settings: OptimizerSettings, peak: float, peak_scale: float = 1.0
) -> float:
    """The rate at a moment of ``epochs``: a linear warm-up, then what ``settings.schedule`` says.

    The cosine spans all epochs, those of the warm-up too, so that the rate falls by a step where
    the warm-up ends, as in TransReID-SSL's fine-tuning; a plateau's spans what is left. A run that
    is shorter than the plateau has no cosine. The start of the warm-up and the end of the cosine
    are shares of ``peak``, whatever ``peak_scale`` multiplies it by for some parameters.
    """
    start, end, top = settings.warmup_start * peak, settings.lowest(peak), peak_scale * peak
    if epoch < settings.warmup_epochs:
        return linear(epoch, start=start, end=top, duration=settings.warmup_epochs)
    if settings.schedule == "step":
        return top * settings.step_factor ** (epoch // settings.step_epochs)
    begin = settings.plateau_epochs if settings.schedule == "plateau" else 0
    if epoch < begin:
        return top
    return cosine((epoch - begin) / max(1, epochs - begin), top, end)
