"""What a training would take, measured by a few of its steps on this machine.

Images a second, the hours of the run, memory and disk; where generated people stand in for a pool,
the hours of as many epochs over LUPerson and its half, too.
"""

import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transreid_ssl import command, logs, shipped
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.plan_gpu import FULL, LUPERSON, is_demo, on_known_gpu, share_of_batch
from transreid_ssl.pretrain.settings import PretrainingConfig
from transreid_ssl.training import parse_config
from transreid_ssl.training.clock import duration, rate
from transreid_ssl.training.config import is_auto
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.training.measure import Measurement

_STARVED = 0.1  # share of a step that is waited for images, above which loaders are too few


@dataclass(frozen=True)
class Plan:
    """Say what a training would take, measured by a few of its steps on this machine.

    Example: ``python -m transreid_ssl.plan pretrain dino --data.pool CROPS --steps 20``: the
    training as it would be started, and options of the plan; without options of its own its demo
    is measured. Nothing is written to the run's folder.

    Args:
        recipe: The training, pretrain dino where none is named: "finetune usl", …, "distill", or a
            recipe's file.
        steps: How many to measure, after the first.
        processes: Plan for so many like this one, each with its share of a batch and a GPU of its
            own; what they say to each other is not counted. On a CPU they share the cores, so that
            many are no faster than one.
        gpu: Take what was measured on a GPU ("h200", and by arithmetic "h100") instead of measuring
            here: DINO of the published views, without its loaders.
    """

    recipe: str
    steps: int = 10
    processes: int = 1
    gpu: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, steps=(1, None), processes=(1, None))


OPTIONS = tuple(f"--{field.name}" for field in fields(Plan) if field.name != "recipe")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and say it."""
    begin = time.monotonic()
    own, settings = split(sys.argv[1:] if arguments is None else arguments)
    options = command.options(Plan, "python -m transreid_ssl.plan", own)
    recipe = shipped.load_recipe(options.recipe)
    chosen = is_auto(settings)  # for the pool that is given
    if chosen and options.gpu is not None:
        raise UserError(
            "--config auto: chooses for the machine that it is on; with --gpu give a file: "
            "--config dino_vit_small_ics_luperson50.yaml"
        )
    config = settings_of(recipe, settings)
    if options.gpu is not None:
        has_pool = any(word.partition("=")[0] == "--data.pool" for word in settings)
        told = on_known_gpu(recipe, config, options.gpu, options.processes, has_pool)
        print("\n".join(told))
        return
    measurement = measure(recipe, config, settings, options.steps, options.processes)
    stands_in = isinstance(config, PretrainingConfig) and is_demo(config) and not chosen
    start = measurement.began - begin
    lines = describe(measurement, start, options.processes, images_of(config), stands_in)
    free = shutil.disk_usage(existing(Path(config.run.output))).free
    print("\n".join([*lines, *shortages(measurement, options.processes, free)]))


def settings_of(recipe: ModuleType, settings: Sequence[str]) -> Any:
    """The settings that would run; the recipe itself says which were chosen."""
    told = recipe.Config, recipe.DEMO, recipe.__doc__, settings
    return parse_config(*told, say=lambda text: None)[0]


def images_of(config: Any) -> str:
    """The images to train on, by the names that the settings give them."""
    section = config.data
    if isinstance(config, PretrainingConfig):
        return section.pool
    return f"{section.name} {section.root or ''}".strip()


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plan's arguments, which may stand anywhere, and the training's.

    A training has no option by the plan's names but ``--processes``, of which the plan takes the
    number. Where it begins with an option, it is the training that need not be said.

    Raises:
        UserError: there is no such training.
    """
    own, training = [], []
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name in ("-h", "--help", "--help-all"):
            own.append(word)
        elif name in OPTIONS:
            own += [word] if equals else [word, *itertools.islice(words, 1)]
        else:
            training.append(word)
    if training and training[0] in (*shipped.KINDS, shipped.ALONE):
        words, options = shipped.split(training)
        training = [" ".join(words), *options]
    if training and not training[0].startswith("-"):
        return training[:1] + own, training[1:]
    return ["pretrain dino", *own], training


def measure(
    recipe: ModuleType, config: Any, settings: Sequence[str], steps: int, processes: int = 1
) -> "Measurement":
    """Run the first steps of a recipe, in a folder that is thrown away.

    For several processes this one computes their shares of a batch one after the other. ``config``
    is what ``settings`` come to.

    Raises:
        UserError: a recipe of two stages, what the recipe refuses, a batch that the processes
            cannot share, a GPU whose memory does not suffice, or a launch in several processes.
    """
    import torch

    from transreid_ssl.training.measure import Measured
    from transreid_ssl.training.measuring import measuring

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a plan is made by one process: give --processes instead of launching many")
    if "source_training" in recipe.Config.__dataclass_fields__:
        raise UserError(
            f"{recipe.__name__}: has two stages: plan `finetune supervised` and `finetune usl` "
            "instead"
        )
    at_once, parts = share_of_batch(config.run, processes), config.run.accumulation * processes
    with tempfile.TemporaryDirectory() as folder, measuring(steps):
        own = [f"--run.output={folder}/run", "--run.tracker=null", f"--run.accumulation={parts}"]
        try:
            recipe.main([*settings, *own])
        except Measured as end:
            return end.measurement
        except UserError as error:  # speaks of the folder that the user knows
            raise UserError(str(error).replace(f"{folder}/run", config.run.output)) from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not suffice for {counted(at_once, 'image')} at "
                "once: raise --run.accumulation, or give --model.gradient_checkpointing true"
            ) from error
        finally:
            logs.close()  # train.log goes with the folder
    raise UserError(f"{recipe.__name__}: ended without a step")


def describe(
    found: "Measurement", start: float, processes: int, images: str, stands_in: bool
) -> list[str]:
    """Lines for people.

    Args:
        start: Seconds from this command's beginning to the first step: torch, images, networks.
        stands_in: The images were measured in the place of a large pool's.
    """
    abreast = processes if found.on_gpu else 1  # those of a CPU share its cores
    step, speed = found.step / abreast, abreast * found.batch_size / found.step
    total = found.steps_per_epoch * found.epochs
    parts = {
        "the start": start,
        "training": found.first / abreast + step * (total - 1),
        "the beginnings of epochs": found.epoch_start * found.epochs,
        f"{found.probes} probes": found.baselines + found.probe * found.probes,
        f"{found.checkpoints} checkpoints": found.checkpoint * found.checkpoints,
    }
    told = ", ".join(f"{name} {duration(value)}" for name, value in parts.items() if value > 0.5)
    apart = ""
    if processes > 1:
        together = "never wait for each other" if found.on_gpu else "share these cores"
        apart = f" on {processes} processes that {together}"
    lines = [
        f"measured on {found.device}: {counted(found.steps, 'step')} of {found.batch_size} images "
        f"after the first, {step:.3g} s each{apart}",
        f"  {rate(speed)} images/s; {found.data_wait:.0%} of a step is waiting for images; the "
        f"first step took {found.first / abreast:.1f} s",
        *_of_ceiling(found),
        f"this run, on {images}: {counted(total, 'step')} "
        f"({counted(found.epochs, 'epoch')} of {found.steps_per_epoch:,}), "
        f"{duration(sum(parts.values()))} ({told})",
    ]  # fmt: skip
    for name, count in LUPERSON.items() if stands_in else ():
        lines.append(f"  {name}, as many epochs: {count * found.epochs / speed / 3600:,.1f} h")
    lines.append(
        f"memory: {found.memory / 1e9:.1f} GB a process with its loaders; disk: "
        f"{found.checkpoint_bytes * found.checkpoints_kept / 1e9:.2f} GB of checkpoints"
    )
    if found.watts:
        energy = found.watts * sum(parts.values()) * processes / 3.6e6
        lines.append(f"energy: {energy:.1f} kWh, at {found.watts:.0f} W a GPU")
    return lines


def shortages(found: "Measurement", processes: int, free: int) -> list[str]:
    """What does not suffice for a run, with what to change; ``free`` bytes are left on its disk."""
    lines = []
    if found.data_wait > _STARVED:
        lines.append("the loaders are too slow: raise --run.num_workers, or pack the pool")
    together = found.memory * (1 if found.on_gpu else processes)  # each GPU has its own
    if together > FULL * found.machine_memory:
        lines.append(
            f"the memory hardly suffices: {together / 1e9:.1f} of {found.machine_memory / 1e9:.1f} "
            "GB; --run.accumulation takes fewer images at once, fewer --run.num_workers need less, "
            "--model.gradient_checkpointing true keeps least"
        )
    # Beside those that stay there is the one that is being written.
    if found.checkpoint_bytes * (found.checkpoints_kept + 1) > free:
        lines.append(
            f"the disk does not suffice: {free / 1e9:.1f} GB are free; lower "
            "--run.keep_checkpoints, or give --run.output on another disk"
        )
    return lines


def existing(path: Path) -> Path:
    """The folder that is there already, in which the path would be made."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _of_ceiling(found: "Measurement") -> list[str]:
    """The line of how much of the device is used; none where it was not counted."""
    if found.ceiling_share is None:
        return []
    return [
        f"  {found.ceiling_share:.0%} of the rate that products of large matrices reach on this "
        "device"
    ]


if __name__ == "__main__":
    command.run(main)
