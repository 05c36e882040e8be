"""The one training loop. An objective gives a loss for a batch; everything else happens here.

Accelerate does devices, precision and processes; the run folder holds what must survive a kill.
Randomness is drawn from (seed, step, rank), so a resumed run continues as if never broken off.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from transreid_ssl.errors import UserError
from transreid_ssl.training.optim import clip_gradients
from transreid_ssl.training.plan import Plan
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.settings import RunSettings


class Objective(Protocol):
    """What a method must offer: a module whose ``forward`` gives its loss.

    ``forward(batch, epoch)`` returns a dict of 0-d tensors on the device: "loss" and whatever else
    should be logged. The fast and the slow network live in this one module, so that autocast,
    distributed training and checkpoints treat them alike.
    """

    def forward(self, batch: dict[str, Any], epoch: int) -> dict[str, Tensor]: ...

    def before_step(self, epoch: int) -> None:
        """Called with gradients in place, after clipping."""

    def after_step(self, progress: float) -> None:
        """Called after the optimiser's step; ``progress`` in [0, 1): the share of the run done."""


@dataclass
class Meter:
    """Sums of logged values, kept on the device until a logging step reads them."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    finite: Tensor | None = None

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's values, averaged over its micro-batches."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        ok = torch.isfinite(values["loss"])
        self.finite = ok if self.finite is None else self.finite & ok
        self.count += 1

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over steps and processes; this is the loop's only wait for the device."""
        names = sorted(self.sums)
        means = torch.stack([self.sums[name].float() / self.count for name in names])
        finite = self.finite.float()
        if accelerator.num_processes > 1:
            means = accelerator.reduce(means, "mean")
            finite = accelerator.reduce(finite, "mean")
        values = dict(zip(names, means.tolist()))
        values["finite"] = finite.item() == 1.0
        return values

    def reset(self) -> None:
        self.sums, self.count, self.finite = {}, 0, None


class Trainer:
    """Runs an objective to the end of its plan, resuming from what the run folder holds.

    Args:
        accelerator: Devices, precision and processes.
        objective: See ``Objective``.
        optimizer: Over the objective's trainable parameters.
        plan: Length and schedules.
        run: Where results go.
        settings: Logging and checkpoint intervals, accumulation, seed.
        data_key: What a checkpoint must have been made with (the pool's fingerprint, say).
        probe: Called with the step; returns values to log. It may raise ``UserError`` to stop.
        probe_every: Steps between probes (there is one at the start and one at the end).
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        run: RunFolder,
        settings: RunSettings,
        *,
        data_key: str = "",
        probe: Callable[[int], dict[str, float]] | None = None,
        probe_every: int = 0,
    ) -> None:
        self.accelerator, self.objective, self.plan = accelerator, objective, plan
        self.run, self.settings, self.data_key = run, settings, data_key
        self.probe, self.probe_every = probe, probe_every
        self.model, self.optimizer = accelerator.prepare(objective, optimizer)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.meter = Meter()
        self.bad_images: set[str] = set()
        self._stop = False
        self.step = self._restore()

    # -- state

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; randomness is a function of the step."""
        scaler = self.accelerator.scaler
        return {
            "data_key": self.data_key,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }

    def _restore(self) -> int:
        state = self.run.resume()
        self.accelerator.wait_for_everyone()
        if state is None:
            return 0
        if state["data_key"] != self.data_key:
            raise UserError(
                f"{self.run.path}: its checkpoint was made with other images than there are now; "
                "choose another --run.output, or --run.overwrite true to begin anew"
            )
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.say(f"resuming from step {state['step']} of {self.plan.total_steps}")
        return int(state["step"])

    def say(self, text: str) -> None:
        """Print on the main process."""
        self.accelerator.print(text, flush=True)

    # -- the loop

    def fit(self, batches: Iterator[dict[str, Any]]) -> None:
        """Train to the end of the plan. ``batches`` begins at the micro-batch of ``self.step``.

        Raises:
            UserError: the loss is no longer finite, or the probe sees a collapse.
            KeyboardInterrupt: after an interrupt, with a checkpoint of the last whole step written.
        """
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.model.train()
            if self.step == 0:
                self._probe()
            self._clock, self._clock_step = time.monotonic(), self.step
            while self.step < self.plan.total_steps:
                self.meter.add(self._optimise(batches))
                self.step += 1
                self._housekeeping()
        finally:
            close = getattr(batches, "close", None)  # a generator would keep its workers until
            if close:  # the garbage collector finds it
                close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _optimise(self, batches: Iterator[dict[str, Any]]) -> dict[str, Tensor]:
        """One optimiser step; returns the logged values, averaged over the micro-batches."""
        plan, accelerator, count = self.plan, self.accelerator, self.settings.accumulation
        epoch = self.step // plan.steps_per_epoch
        set_seed(_mix(self.settings.seed, self.step, accelerator.process_index))
        self._set_schedules()
        total: dict[str, Tensor] = {}
        for micro in range(count):
            batch = self._to_device(next(batches))
            last = micro == count - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                values = self.model(batch, epoch)
                accelerator.backward(values["loss"] / count)
            for name, value in values.items():
                total[name] = total.get(name, 0) + value.detach().float() / count
        if plan.clip:
            accelerator.unscale_gradients(self.optimizer)
            total["gradient_norm"] = clip_gradients(self.parameters, plan.clip, plan.clip_each)
        self.objective.before_step(epoch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(self.step / plan.total_steps)
        return total

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.bad_images.update(batch.pop("corrupt", ()))
        device = self.accelerator.device
        return {
            name: [v.to(device, non_blocking=True) for v in value]
            if isinstance(value, (list, tuple))
            else value.to(device, non_blocking=True)
            for name, value in batch.items()
        }

    def _set_schedules(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr(self.step) * group.get("lr_scale", 1.0)
            if self.plan.weight_decay is not None and group.get("decay", False):
                group["weight_decay"] = self.plan.weight_decay(self.step)

    # -- between steps

    def _housekeeping(self) -> None:
        settings, end = self.settings, self.step == self.plan.total_steps
        if self.step % settings.log_every == 0 or end:
            self._log()
        if self._stop_agreed():
            self._checkpoint()
            raise KeyboardInterrupt
        if self.step % settings.checkpoint_every == 0 or end:
            self._checkpoint()
        if self.probe and (end or (self.probe_every and self.step % self.probe_every == 0)):
            self._probe()

    def _log(self) -> None:
        values = self.meter.read(self.accelerator)
        if not values.pop("finite"):
            raise UserError(
                f"{self.run.path}: the loss stopped being finite within the "
                f"{self.meter.count} steps before step {self.step}; the last good checkpoint is "
                'kept: lower --optim.lr, or use --run.precision "no", with another --run.output'
            )
        seconds = (time.monotonic() - self._clock) / max(1, self.step - self._clock_step)
        values |= {
            "epoch": self.step / self.plan.steps_per_epoch,
            "lr": self.plan.lr(self.step - 1),
            "images_per_second": self.settings.batch_size / seconds,
        }
        if self.plan.weight_decay is not None:
            values["weight_decay"] = self.plan.weight_decay(self.step - 1)
        self.meter.reset()
        self.run.log(self.step, values)
        self.accelerator.log(values, step=self.step)
        self.say(
            f"step {self.step}/{self.plan.total_steps}  loss {values['loss']:.4f}  "
            f"lr {values['lr']:.2e}  {values['images_per_second']:.0f} images/s  "
            f"{_duration(seconds * (self.plan.total_steps - self.step))} left"
        )

    def _checkpoint(self) -> None:
        """Write the state, unless a loss since the last look was not finite."""
        if self.meter.count and not self.meter.read(self.accelerator)["finite"]:
            self._log()
        if self.accelerator.is_main_process:
            self.run.save(self.step, self.state(), self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _probe(self) -> None:
        """Measure, log and say; time spent here does not count as training time."""
        if self.probe is None:
            return
        begin = time.monotonic()
        values = self.probe(self.step)
        self.model.train()
        if values:
            self.run.log(self.step, values)
            self.accelerator.log(values, step=self.step)
        self.run.draw_curves()
        if self.step:
            self._clock += time.monotonic() - begin

    def report(self, result: str) -> None:
        """Say where the results are, and what retrieval was before and after."""
        self.run.draw_curves()
        probes = [line for line in self.run.read_metrics() if "probe/mAP" in line]
        if probes:
            first, last = probes[0], probes[-1]
            rows = [
                (f"before (step {first['step']})", first["probe/mAP"], first["probe/rank1"]),
                (f"after (step {last['step']})", last["probe/mAP"], last["probe/rank1"]),
                ("colour histogram", last["probe/mAP_histogram"], last["probe/rank1_histogram"]),
                ("chance", last["probe/mAP_chance"], last["probe/rank1_chance"]),
            ]
            self.say(f"{'direct retrieval':24} {'mAP %':>7} {'rank-1 %':>9}")
            for name, mean_ap, rank1 in rows:
                self.say(f"{name:24} {mean_ap:7.1f} {rank1:9.1f}")
        self.say(f"results: {self.run.path / result}, {self.run.path / 'curves.png'}")

    # -- interrupts

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def _stop_agreed(self) -> bool:
        """Whether to stop; several processes agree at logging steps, so that none hangs."""
        if self.accelerator.num_processes == 1:
            return self._stop
        if self.step % self.settings.log_every:
            return False
        flag = torch.tensor(float(self._stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)


def _mix(seed: int, step: int, rank: int) -> int:
    """One 31-bit seed from three numbers (a splitmix-like hash: neighbours share nothing)."""
    value = (
        seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    ) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    return (value ^ (value >> 33)) & 0x7FFFFFFF


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
