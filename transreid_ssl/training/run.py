"""The skeleton of every training: an objective goes in, its backbone and its figures come out."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate

from transreid_ssl.command import as_started
from transreid_ssl.data import Pool
from transreid_ssl.errors import UserError
from transreid_ssl.files import write_json
from transreid_ssl.logs import say
from transreid_ssl.models import Backbone, began_with, group_norms, save_backbone
from transreid_ssl.processes import on_main
from transreid_ssl.reading import read_object
from transreid_ssl.training.begun import note_begin
from transreid_ssl.training.best import BestNetwork
from transreid_ssl.training.config import provenance
from transreid_ssl.training.loop import Trainer
from transreid_ssl.training.measure import end_if_measured
from transreid_ssl.training.objective import Objective
from transreid_ssl.training.optim import build_optimizer
from transreid_ssl.training.ownership import LINEAGE
from transreid_ssl.training.phases import of_optimizer, without_end
from transreid_ssl.training.plan import make_plan
from transreid_ssl.training.probe import retrieval_probe
from transreid_ssl.training.runfolder import RunFolder, goes_on
from transreid_ssl.training.settings import ProbeSettings, RunSettings
from transreid_ssl.training.sharding import shard, whole_network
from transreid_ssl.training.speed import make_fast


def train(
    config: Any,
    accelerator: accelerate.Accelerator,
    run: RunFolder,
    objective: Objective,
    batches: Callable[[Trainer], Iterator[dict[str, Any]]],
    *,
    steps_per_epoch: int,
    data_key: str,
    origin: dict[str, str],
    probe: ProbeSettings,
    result: str,
    best: str | None = None,
    max_bad_images: int | None = None,
    images: Pool | None = None,
    leave: Callable[[Trainer, Path], None] | None = None,
    following: str | None = None,
) -> Path:
    """Train an objective to the end of its plan; returns the backbone's file in the run folder.

    Args:
        config: A recipe's settings, with ``run`` and ``optim`` among them.
        batches: Gives the batches of a run, which begin at the trainer's step.
        steps_per_epoch: Optimiser steps an epoch.
        data_key: What a resumed run must be of, such as the pool's fingerprint.
        origin: What the weights' header says of the data.
        probe: What is evaluated meanwhile.
        result: The file of the backbone when the run is finished.
        best: The file of the backbone of the best probe; None keeps none.
        max_bad_images: See ``Trainer``.
        images: What is trained on.
        leave: Called in the end on the main process, with what is left: a report, say.
        following: The command that goes on from the result, which is said last.

    Raises:
        UserError: the run folder is of other images, or training has diverged or collapsed.
    """
    phases = [*of_optimizer(config.optim), *objective.phases]
    _prepare(objective, config.run, accelerator)
    lineage = _lineage(config, objective, run, accelerator)
    network = _Network(config, objective, run, accelerator, origin | lineage)
    kept = None if best is None else BestNetwork(run, best)
    trainer = Trainer(
        accelerator, objective, build_optimizer(objective, config.optim, accelerator.device),
        make_plan(config.optim, config.run, steps_per_epoch), run, config.run,
        data_key=data_key, max_bad_images=max_bad_images,
        image_names=images.names if images is not None else None,
        probe=retrieval_probe(probe, network.whole, accelerator, trained_on=images),
        probe_every=probe.every,
        keep_best=None if kept is None else lambda: network.keep(kept, trainer.step),
    )  # fmt: skip
    if said := without_end(phases, config.run, steps_per_epoch, run.group):
        say(accelerator, said, logging.WARNING)
    end_if_measured(trainer, batches)
    on_main(accelerator, lambda: note_begin(trainer, images))
    if kept and (said := on_main(accelerator, kept.follow_log)):
        trainer.say(said)
    trainer.fit(batches(trainer))
    network.save(result, trainer.step)
    trainer.report(result, on_main(accelerator, lambda: _end(trainer, kept)))
    wanted = config.run.page
    if wanted is None:
        wanted = os.environ.get("TRANSREID_SSL_PAGES") != "0"
    if leave is not None and wanted and accelerator.is_main_process:
        leave(trainer, run.path / result)
    if following:
        trainer.say(as_started(f"next: {following}"))
    return run.path / result


@dataclasses.dataclass(frozen=True)
class _Network:
    """What a run leaves: its backbone as it is, with a header that says what it was made of."""

    config: Any
    objective: Objective
    run: RunFolder
    accelerator: accelerate.Accelerator
    origin: dict[str, Any]

    def whole(self) -> Backbone:
        """The backbone, on every process, also where its weights are sharded."""
        return whole_network(self.objective.backbone)

    def save(self, name: str, step: int) -> None:
        """Write it into a file of the run folder."""
        on_main(self.accelerator, self._writer(name, step))

    def keep(self, best: BestNetwork, step: int) -> None:
        """Write it into the file of the best one."""
        write = self._writer(best.path.name, step)
        on_main(self.accelerator, lambda: best.replace(write))

    def _writer(self, name: str, step: int) -> Callable[[], None]:
        """For all processes; what it returns is for the main one."""
        network = self.whole()
        made_of = provenance(self.config, **self.origin, step=step)
        spec = dataclasses.replace(network.spec, objective=self.objective.name, provenance=made_of)
        return lambda: save_backbone(self.run.path / name, network, spec)


def _end(trainer: Trainer, kept: BestNetwork | None) -> str:
    """End what is kept of the best network; which it was in words, "" where none is kept."""
    if kept is None:
        return ""
    kept.end()
    return trainer.probing.describe_best(kept)


def _lineage(
    config: Any, objective: Objective, run: RunFolder, accelerator: accelerate.Accelerator
) -> dict[str, Any]:
    """What the header says of the weights that a training began with.

    A run that goes on has noted it, since their file may be gone by now.
    """
    noted = run.path / LINEAGE
    if goes_on(config.run) and noted.is_file():
        found = read_object(noted)
        if found is None:
            raise UserError(f"{noted}: not what a run has written; remove it")
        return found
    found = began_with(_initial_weights(config), objective.backbone.spec.name)
    if found:
        on_main(accelerator, lambda: write_json(noted, found))
    return found


def _initial_weights(config: Any) -> str | None:
    """The file that a training begins with, where its settings speak of one."""
    return getattr(getattr(config, "model", None), "weights", None)


def _prepare(
    objective: Objective, settings: RunSettings, accelerator: accelerate.Accelerator
) -> None:
    """Change what the networks are made of, while nobody has hold of their parameters yet."""
    group_norms(
        objective, device=accelerator.device, num_processes=accelerator.num_processes,
        norm_images=settings.norm_images,
        images=settings.batch_size // (accelerator.num_processes * settings.accumulation),
    )  # fmt: skip
    make_fast(objective, settings, accelerator.device)
    if settings.shard and accelerator.num_processes > 1:
        shard(objective, accelerator)
