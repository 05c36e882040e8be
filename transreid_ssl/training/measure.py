"""A few steps of a run, taken to see what all of it would take."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from transreid_ssl.errors import UserError
from transreid_ssl.machine import total_memory
from transreid_ssl.training.checkpoint import staying
from transreid_ssl.training.clock import Clock
from transreid_ssl.training.loop import Trainer
from transreid_ssl.training.measuring import steps_to_measure
from transreid_ssl.training.sharding import is_sharded


@dataclass(frozen=True)
class Measurement:
    """What was measured; times are in seconds.

    Attributes:
        device: "cpu", or the GPU's name.
        batch_size: images of a step.
        steps: how many were measured after the first.
        began: when the first began, by ``time.monotonic``.
        first: the first step, which warms up and compiles.
        step: each of those after it.
        data_wait: share of them, 0 to 1, that was waited for images.
        epoch_start: what an epoch begins with, such as clustering.
        baselines: what probes are compared with, found once.
        probe, checkpoint: one of them.
        steps_per_epoch, epochs, probes, checkpoints: of the whole run.
        checkpoints_kept, checkpoint_bytes: what stays on the disk, and the size of one.
        memory: bytes, of this process and its loaders; on a GPU the most that it held.
        machine_memory: what the machine, or a container, has in all, which processes share; on a
            GPU what that has.
        ceiling_share: of what the device's matrix products reach, 0 to 1; None: not counted.
        watts: that a GPU drew at the end of the steps; None where it does not say.
    """

    device: str
    batch_size: int
    steps: int
    began: float
    first: float
    step: float
    data_wait: float
    epoch_start: float
    baselines: float
    probe: float
    checkpoint: float
    steps_per_epoch: int
    epochs: int
    probes: int
    checkpoints: int
    checkpoints_kept: int
    checkpoint_bytes: int
    memory: int
    machine_memory: int
    ceiling_share: float | None
    watts: float | None

    @property
    def on_gpu(self) -> bool:
        """Whether the steps ran on one, which has a memory of its own."""
        return self.device != "cpu"


class Measured(Exception):
    """Ends a run that was only to be measured."""

    def __init__(self, measurement: Measurement) -> None:
        super().__init__(measurement)
        self.measurement = measurement


def end_if_measured(
    trainer: Trainer, batches: Callable[[Trainer], Iterator[dict[str, Any]]]
) -> None:
    """Where a training is only to be measured, do so and raise ``Measured``."""
    if steps := steps_to_measure():
        raise Measured(_measure(trainer, batches(trainer), steps))


def _measure(trainer: Trainer, batches: Iterator[dict[str, Any]], steps: int) -> Measurement:
    settings, total = trainer.settings, trainer.plan.total_steps
    if total < 2:
        raise UserError("the run has one step, after which there is nothing to measure")
    trainer.clock = Clock()
    trainer.model.train()

    def take(count: int) -> tuple[float, float]:
        """Seconds a step, and the share of waiting; the device is waited for."""
        for _ in range(count):
            trainer.advance(batches)
        if not trainer.meter.count:
            raise UserError("the gradients of the first steps are not finite; lower --optim.lr")
        trainer.meter.read(trainer.accelerator)
        return trainer.clock.read(trainer.step)

    began = time.monotonic()
    first, _ = take(1)
    epoch_start, steps = trainer.clock.left_out, min(steps, total - 1)
    seconds, waited = take(steps)
    watts, memory = _watts(trainer), _memory(trainer)
    if not is_sharded(trainer.objective):
        trainer.ceiling.measure(trainer.objective, epoch=0)
    baselines = probe = 0.0
    if measured := trainer.probing.probe:
        baselines = _seconds(measured.find_baselines)
        probe = _seconds(lambda: measured(trainer.step))
    written = [step for step in range(1, total + 1) if trainer.checkpoint_is_due(step)]
    return Measurement(
        device=_device_name(trainer), batch_size=settings.batch_size, steps=steps, began=began,
        first=first, step=seconds, data_wait=waited, epoch_start=epoch_start,
        baselines=baselines, probe=probe,
        checkpoint=_seconds(lambda: trainer.save(trainer.state([]))),
        steps_per_epoch=trainer.plan.steps_per_epoch, epochs=trainer.plan.epochs,
        probes=sum(map(trainer.probing.is_due, range(total + 1))), checkpoints=len(written),
        checkpoints_kept=len(staying(written, settings.keep_checkpoints, settings.keep_every)),
        checkpoint_bytes=_on_disk(trainer),
        memory=memory, machine_memory=_machine_memory(trainer.accelerator.device),
        ceiling_share=trainer.ceiling.share(seconds), watts=watts,
    )  # fmt: skip


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.monotonic()
    function()
    return time.monotonic() - begin


def _on_disk(trainer: Trainer) -> int:
    """Bytes of a checkpoint, with the state of weights that rest in the first steps, as prototypes
    do: it comes when they begin to learn, as large beside them as that of the others."""
    files = [path for path in trainer.run.checkpoints.iterdir() if path.is_file()]
    learning = resting = states = 0
    for parameter in trainer.parameters:
        state = trainer.optimizer.state.get(parameter)
        learning += parameter.nbytes if state else 0
        resting += 0 if state else parameter.nbytes
        states += sum(value.nbytes for value in (state or {}).values() if torch.is_tensor(value))
    return sum(path.stat().st_size for path in files) + states * resting // max(learning, 1)


def _device_name(trainer: Trainer) -> str:
    device = trainer.accelerator.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _memory(trainer: Trainer) -> int:
    device = trainer.accelerator.device
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    process, held = psutil.Process(), 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):  # a process that has ended meanwhile
            found = one.memory_full_info()
            held += getattr(found, "pss", found.rss)  # pages that processes share count once
    return held


def _machine_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return total_memory()


def _watts(trainer: Trainer) -> float | None:
    device = trainer.accelerator.device
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except Exception:  # without its library, or a GPU that does not tell: errors of many kinds
        return None
