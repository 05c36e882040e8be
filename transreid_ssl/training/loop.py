"""The one training loop. An objective gives a loss for a batch; everything else happens here.

Accelerate does devices, precision and processes; the run folder holds what must survive a kill.
Randomness is drawn from (seed, step, rank), so a resumed run continues as if never broken off.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import accelerate
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm import tqdm

from transreid_ssl.errors import UserError
from transreid_ssl.logs import say
from transreid_ssl.models import BlockNorm, block_norms
from transreid_ssl.processes import on_all, on_main
from transreid_ssl.training.bad_images import BadImages
from transreid_ssl.training.ceiling import Ceiling
from transreid_ssl.training.checkpoint import capture, load_checkpoint, require_same_step, restore
from transreid_ssl.training.clock import Clock, describe_progress, progress_bar, show_beside
from transreid_ssl.training.first_steps import FirstSteps
from transreid_ssl.training.interrupts import StopRequest
from transreid_ssl.training.meter import Meter
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.optim import clip_gradients
from transreid_ssl.training.plan import Plan
from transreid_ssl.training.probe import RetrievalProbe
from transreid_ssl.training.probing import Probing
from transreid_ssl.training.runfolder import RunFolder
from transreid_ssl.training.seeds import step_seed
from transreid_ssl.training.settings import RunSettings
from transreid_ssl.training.sharding import is_sharded, norms, whole
from transreid_ssl.training.trackers import log_picture
from transreid_ssl.training.watch import Watch


class Trainer:
    """Runs an objective to the end of its plan, resuming from what the run folder holds.

    Args:
        accelerator: Devices, precision and processes.
        objective: The method.
        optimizer: Over its trainable parameters.
        plan: Length and schedules.
        run: Where results go.
        settings: Logging and checkpoint intervals, accumulation, seed.
        data_key: What a checkpoint must have been made with (the pool's fingerprint, say).
        max_bad_images: How many different unreadable images may be met; None: any number.
        image_names: By the "index" of a batch: which images a step saw that was not finite.
        probe, probe_every, keep_best: As ``Probing`` takes them.
    """

    accelerator: accelerate.Accelerator
    objective: Objective
    plan: Plan
    run: RunFolder
    settings: RunSettings
    data_key: str
    clock: Clock
    ceiling: Ceiling
    probing: Probing
    model: Any
    watch: Watch
    parameters: list[nn.Parameter]

    def __init__(
        self,
        accelerator: accelerate.Accelerator,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        run: RunFolder,
        settings: RunSettings,
        *,
        data_key: str = "",
        max_bad_images: int | None = None,
        image_names: Sequence[str] | None = None,
        probe: RetrievalProbe | None = None,
        probe_every: int = 0,
        keep_best: Callable[[], None] | None = None,
    ) -> None:
        self.accelerator, self.objective, self.plan = accelerator, objective, plan
        self._most_skipped = settings.log_every  # in a row: lines may be closer in a short run
        self.settings = settings = settings.paced(plan.total_steps)
        self.run, self.data_key = run, data_key
        self.probing = Probing(accelerator, run, plan.total_steps, probe, probe_every, keep_best)
        self.norms: list[BlockNorm] = list(block_norms(objective))
        # Sharded, it averages gradients itself: there is nothing to wrap it in.
        self.model = accelerator.prepare_model(objective, evaluation_mode=is_sharded(objective))
        self.optimizer: Any = accelerator.prepare_optimizer(optimizer)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        # A loss scaler skips steps whose gradients overflow; without one they must be finite.
        self.meter: Meter = Meter(("loss",) if accelerator.scaler else ("loss", "gradient_norm"))
        self.watch = Watch(accelerator, run, settings, self.meter, self.parameters, image_names)
        self.bad_images: BadImages = BadImages(accelerator, run, max_bad_images)
        # What was asked for is float32 where the device does not compute it fast.
        precision = accelerator.mixed_precision if accelerator.native_amp else "no"
        self.ceiling = Ceiling(accelerator.device, precision, settings.accumulation)
        self.skipped: int = 0
        self.bar: tqdm[Any] | None = None
        self.stop: StopRequest = StopRequest(accelerator)
        self.step: int = self._restore()
        require_same_step(accelerator, self.step, run.path)

    # -- state

    def state(self, bad_images: list[str]) -> dict[str, Any]:
        """All that the next step depends on; randomness is a function of the step.

        Sharded weights are whole on the main process, and left out on the others.
        """
        state = {
            "data_key": self.data_key,
            "spec": self.objective.spec.to_json(),
            "backbones": self.objective.prefixes(),
            **capture(self.objective, self.optimizer, self.accelerator.scaler),
            "bad_images": bad_images,
        }
        is_main = self.accelerator.is_main_process
        return whole(state, put=lambda tensor: tensor.cpu() if is_main else None)

    def _restore(self) -> int:
        path, notes = on_main(self.accelerator, self.run.newest)
        for note in notes:
            self.say(note)
        if path is None:
            return 0
        state = on_all(self.accelerator, lambda: load_checkpoint(path))
        if state["data_key"] != self.data_key:
            raise UserError(
                f"{self.run.path}: its checkpoint was made with other images than there are now; "
                "choose another --run.output, or --run.overwrite true to begin anew"
            )
        restore(path, state, self.objective, self.optimizer, self.accelerator.scaler)
        self.bad_images.add(state["bad_images"])
        self.say(f"resuming from step {state['step']} of {self.plan.total_steps}")
        return int(state["step"])

    def say(self, text: str) -> None:
        """Log on the main process."""
        say(self.accelerator, text)

    # -- the loop

    def fit(self, batches: Iterator[dict[str, Any]]) -> None:
        """Train to the end of the plan, and close ``batches``, which begin at ``self.step``.

        Raises:
            UserError: a loss or gradient is no longer finite, or the features have collapsed.
            KeyboardInterrupt: after an interrupt, with a checkpoint of the last whole step written.
        """
        # A generator would keep its workers until the garbage collector finds it.
        closing = contextlib.closing(batches) if hasattr(batches, "close") else nullcontext()
        total = self.plan.total_steps
        with self.stop, closing, progress_bar(self.accelerator, self.step, total) as bar:
            self.bar, self.clock = bar, Clock(self.step)
            first_steps = FirstSteps(
                self.accelerator, self.objective, self.clock, self.meter, self.ceiling,
                begin=self.step, total=total, log_every=self.settings.log_every,
            )  # fmt: skip
            if self.probing.is_missing(self.step):
                self._probe()
            self.model.train()
            while self.step < total:
                self.advance(batches)
                bar.update()
                first_steps.look(self.step)
                self._housekeeping()
            self.watch.check_end(self.step)

    def advance(self, batches: Iterator[dict[str, Any]]) -> None:
        """Make the next step, without what happens between steps."""
        self.watch.begin_step()
        self._optimise(batches)
        self.step += 1

    def _optimise(self, batches: Iterator[dict[str, Any]]) -> None:
        """One optimiser step, noted by the meter."""
        plan, accelerator = self.plan, self.accelerator
        epoch = self.step // plan.steps_per_epoch
        set_seed(step_seed(self.settings.seed, self.step, accelerator.process_index))
        plan.apply(self.optimizer.param_groups, self.step)
        values = self._gradients(batches, epoch)
        accelerator.unscale_gradients(self.optimizer)
        clip = plan.clip, plan.clip_per_parameter
        values["gradient_norm"] = clip_gradients(self.parameters, *clip)
        if self._is_to_be_skipped(values["gradient_norm"]):
            self.objective.forget()
            self.optimizer.zero_grad(set_to_none=True)
            self.skipped += 1
            return
        self.meter.add(values)
        self.objective.before_step(epoch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        done = self.step + self.objective.counts_step
        self.objective.after_step(done / plan.total_steps)

    def _gradients(self, batches: Iterator[dict[str, Any]], epoch: int) -> dict[str, Tensor]:
        """The gradients of a step; returns its values, averaged over the micro-batches."""
        accelerator, count = self.accelerator, self.settings.accumulation
        total: dict[str, Tensor] = {}
        for micro in range(count):
            with self.clock.waiting():
                batch = next(batches)
            batch = self._to_device(batch)
            self.ceiling.note(batch)
            last = micro == count - 1
            for norm in self.norms:
                norm.tracks = micro == 0
            with nullcontext() if last else accelerator.no_sync(self.model):
                values = self.model(batch, epoch)
                accelerator.backward(values["loss"] / count)
            for name, value in values.items():
                total[name] = total.get(name, 0) + value.detach().float() / count
        return total

    def _is_to_be_skipped(self, gradient_norm: Tensor) -> bool:
        """The gradient is that of all processes, so that they decide alike; a scaler has its own
        way. Only who asked for it pays for looking at every step, for which the host waits."""
        if self.settings.not_finite == "stop" or self.accelerator.scaler:
            return False
        return not math.isfinite(gradient_norm.item())

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.bad_images.note(batch)
        self.watch.note(batch)
        device = self.accelerator.device
        return {
            name: [v.to(device, non_blocking=True) for v in value]
            if isinstance(value, (list, tuple))
            else value.to(device, non_blocking=True)
            for name, value in batch.items()
        }

    # -- between steps

    def _housekeeping(self) -> None:
        settings, end = self.settings, self.step == self.plan.total_steps
        if self.step % settings.log_every == 0 or end:
            self._log()
        if self.stop.agreed(self.step):
            self._checkpoint()
            if self.watch.collapse.low:
                self.say(f"{self.watch.collapse.describe(self.step)}; {self.watch.kept()}")
            raise KeyboardInterrupt
        if self.checkpoint_is_due(self.step):
            self._checkpoint()
        if self.probing.is_due(self.step):
            self._probe()

    def _log(self) -> None:
        """Log the steps since the last line, and look whether they were sound."""
        self.watch.check_finite(self.step)
        if not self.meter.count:
            none_ever = self.skipped == self.step == self.plan.total_steps
            if self.skipped < self._most_skipped and not none_ever:
                return  # the next line is of these steps too
            raise UserError(
                f"{self.run.path}: none of the {self.skipped} steps before step {self.step} had a "
                f"finite gradient; {self.watch.kept()}: lower --optim.lr, with another --run.output"
            )
        is_timed = self.clock.steps(self.step) > 0  # else it is of the first step alone
        if is_timed:
            seconds, waited = self.clock.read(self.step)
            self.meter.note("step_seconds", seconds)
            self.meter.note("data_wait", waited)
        self.meter.note("weight_norm", norms(self.parameters).norm())
        values = self.meter.read(self.accelerator)
        self.watch.check(self.step, values)
        self.bad_images.check()
        values |= {
            "epoch": self.step / self.plan.steps_per_epoch,
            "lr": self.plan.lr(self.step - 1),
        }
        if is_timed:
            values |= self._rates(values["step_seconds"])
        if self.plan.weight_decay is not None:
            values["weight_decay"] = self.plan.weight_decay(self.step - 1)
        if self.skipped:
            values["skipped_steps"] = self.skipped
        self.meter.reset()
        self.watch.forget()
        self.skipped = 0
        self.log(values)
        if is_timed:  # the first step has a line of its own
            self.stop.pace(values["step_seconds"], self.settings.log_every)
            self.say(describe_progress(self.step, self.plan.total_steps, values))

    def _rates(self, seconds: float) -> dict[str, float]:
        """What is told of steps of so many seconds."""
        share = self.ceiling.share(seconds)
        known = {} if share is None else {"ceiling_share": share}
        return {"images_per_second": self.settings.batch_size / seconds, **known}

    def _checkpoint(self) -> None:
        """Write the state, unless the network has diverged or collapsed."""
        self.watch.check_finite(self.step)
        if self.watch.collapse.low:
            return
        state = self.state(self.bad_images.gathered())
        on_main(self.accelerator, lambda: self.save(state))

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, if it is sound; on the main process."""
        self.watch.check_state(self.step, state)
        keep = self.settings.keep_checkpoints, self.settings.keep_every
        self.run.save(self.step, state, *keep)

    def _probe(self) -> None:
        """Measure, log and say; a network that has diverged is not measured."""
        self.watch.check_finite(self.step)
        with self.clock.untimed():
            self.log(self.probing.measure(self.step))
            self.model.train()
            self.run.draw_curves(at_most_every=60)

    def log(self, values: dict[str, Any], unless: str = "") -> None:
        """Log the main process's values at this step, also beside a bar; nothing if it has none.

        ``unless`` names a value that tells, once it is there, that this was done before a kill.
        Every process calls this: the main one alone looks, as it may have written meanwhile.
        """
        show_beside(self.bar, values)
        known = on_main(self.accelerator, lambda: self.run.log_unless(self.step, values, unless))
        if values and not known:
            stage, step = self.run.stage, self.run.first_tracked_step + self.step
            numbers = {stage + name: v for name, v in values.items() if not isinstance(v, str)}
            self.accelerator.log(numbers, step=step)

    def checkpoint_is_due(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        return step % self.settings.checkpoint_every == 0 or step == self.plan.total_steps

    def report(self, result: str, best: str = "") -> None:
        """Say where the results are, what retrieval was before and after, and ``best`` if any."""
        self.run.draw_curves()
        step = self.run.first_tracked_step + self.step
        log_picture(self.accelerator, self.run.path / "curves.png", step)
        self.bad_images.report()
        for text in filter(None, (self.probing.describe(), best)):
            self.say(text)
        self.say(f"results: {self.run.path / result}, {self.run.path / 'curves.png'}")
