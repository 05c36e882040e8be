"""What a training would take, measured by a few of its steps on this machine.

Images a second, the hours of the run, memory and disk; where generated people stand in for a pool,
the hours of as many epochs over LUPerson and its half, too.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transreid_ssl import command, data, launching, logs, shipped
from transreid_ssl.errors import UserError, check_ranges
from transreid_ssl.pretrain.settings import PretrainingConfig
from transreid_ssl.training import parse_config
from transreid_ssl.training.clock import duration, rate
from transreid_ssl.training.config import AUTO
from transreid_ssl.words import counted

if TYPE_CHECKING:
    from transreid_ssl.training.measure import Measurement

LUPERSON = 4_180_243
_LUPERSON = {f"LUPerson ({LUPERSON:,} images)": LUPERSON, "its half": LUPERSON // 2}
_STARVED = 0.1  # share of a step that is waited for images, above which loaders are too few


@dataclass(frozen=True)
class Plan:
    """Say what a training would take, measured by a few of its steps on this machine.

    Example: ``python -m transreid_ssl.plan --steps 20 pretrain dino --data.pool CROPS``: options of
    the plan, then the training as it would be started; without options of its own its demo is
    measured. Nothing is written to the run's folder.

    Args:
        recipe: The training: "pretrain dino", "finetune usl", …, "distill", or a recipe's file.
        steps: How many to measure, after the first.
        processes: Plan for so many like this one, each with its share of a batch; what they say to
            each other is not counted.
        gpu: Take what was measured on a GPU of this name ("h200") instead of measuring here: DINO
            of the published views, without its loaders.
    """

    recipe: str
    steps: int = 10
    processes: int = 1
    gpu: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, steps=(1, None), processes=(1, None))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and say it."""
    own, settings = split(sys.argv[1:] if arguments is None else arguments)
    options = command.options(Plan, "python -m transreid_ssl.plan", own)
    recipe = shipped.load_recipe(options.recipe)
    if options.gpu:
        print("\n".join(on_known_gpu(recipe, settings, options.gpu, options.processes)))
        return
    config = settings_of(recipe, settings)
    measurement = measure(recipe, config, settings, options.steps, options.processes)
    chosen = AUTO in settings or f"--config={AUTO}" in settings  # for the pool that is given
    stands_in = isinstance(config, PretrainingConfig) and is_demo(config) and not chosen
    print("\n".join(describe(measurement, options.processes, images_of(config), stands_in)))


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


def is_demo(config: PretrainingConfig) -> bool:
    """Whether generated people stand in for a pool."""
    return config.data.pool.partition(":")[0] == "demo"


@dataclass(frozen=True)
class Profile:
    """What a DINO step was measured to take; ``gib`` is the peak with ``batch_size`` images."""

    images_per_second: float
    batch_size: int
    gib: float


PROFILES = {
    ("h200", "vit_small_patch16_ics"): Profile(2273, 256, 20.0),
    ("h200", "vit_small_patch16_reid"): Profile(3354, 256, 20.4),
    ("h200", "vit_base_patch16_ics"): Profile(1073, 128, 24.1),
}
"""Of ``DINO_VIEWS``, 65,536 outputs, bf16, blocks compiled to keep 0.8 (torch 2.11), crops on the
device."""
DINO_VIEWS: dict[str, Any] = {
    "num_global": 2, "global_size": (256, 128), "num_local": 8, "local_size": (128, 64),
}  # fmt: skip


def on_known_gpu(
    recipe: ModuleType, settings: Sequence[str], gpu: str, processes: int
) -> list[str]:
    """Lines for people, from a stored profile.

    Raises:
        UserError: none is stored of this GPU, network or views.
    """
    config = settings_of(recipe, settings)
    profile = PROFILES.get((gpu, config.model.name))
    if profile is None or not recipe.__name__.startswith("dino"):
        known = ", ".join(f"{name} on {card}" for card, name in PROFILES)
        raise UserError(
            f"--gpu {gpu}: no profile of {recipe.__name__} with {config.model.name} is stored; "
            f"known are dino_pretrain with {known}; leave --gpu out to measure here"
        )
    _check_profiled(config, gpu)
    speed, epochs = processes * profile.images_per_second, config.run.total_epochs
    lines = [
        f"measured on one {gpu.upper()}: {rate(profile.images_per_second)} images/s with "
        f"{profile.batch_size} at once, {profile.gib:.1f} GiB, with --run.compile_memory 0.8 and "
        "without loaders"
        + f"; {processes} of them are {rate(speed)} images/s if they never wait"
        * (processes > 1)
    ]
    for name, count in _pools(config).items():
        lines.append(f"  {name}, {epochs} epochs: {count * epochs / speed / 3600:,.1f} h")
    return lines


def _check_profiled(config: Any, gpu: str) -> None:
    """Refuse settings of DINO that no stored profile is of."""
    elsewhere = "leave --gpu out to measure here"
    added = [f"--dino.{name}" for name in config.dino.additions]
    added += ["--model.registers"] * (config.model.registers > 0)
    added += ["--model.token_norm"] * (config.model.token_norm != "none")
    if added:
        raise UserError(
            f"--gpu {gpu}: the profile is of DINO as it was published, without {added[0]}; "
            + elsewhere
        )
    if any(getattr(config.views, name) != value for name, value in DINO_VIEWS.items()):
        raise UserError(
            f"--gpu {gpu}: the profile is of 2 crops of 256x128 and 8 of 128x64 an image, but "
            f"these settings ask for others; {elsewhere}"
        )


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The plan's arguments, up to the recipe's name, and the recipe's.

    Of a training's own ``--processes`` the plan takes the number.

    Raises:
        UserError: there is no such training, or an option of the plan's stands behind it.
    """
    place = 0
    while place < len(arguments) and arguments[place].startswith("-"):
        alone = "=" in arguments[place] or arguments[place] in ("-h", "--help")
        place += 1 if alone else 2
    own, training = [*arguments[:place]], [*arguments[place:]]
    if training and training[0] in (*shipped.KINDS, shipped.ALONE):
        words, options = shipped.split(training)
        training = [" ".join(words), *options]
    processes, options = launching.split(training[1:])
    names = {f"--{field.name}" for field in dataclasses.fields(Plan)}
    if late := [word for word in options if word.partition("=")[0] in names]:
        raise UserError(
            f"{late[0]}: is of plan itself, not of the training: give it before {training[0]}"
        )
    if processes is not None:
        own.append(f"--processes={processes}")
    return own + training[:1], options


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
    parts = config.run.accumulation * processes
    if config.run.batch_size % parts:
        raise UserError(f"--processes {processes}: do not share {config.run.batch_size} images")
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
                f"the GPU's memory does not suffice for {config.run.batch_size // parts} images at "
                "once: raise --run.accumulation, or give --model.gradient_checkpointing true"
            ) from error
        finally:
            logs.close()  # train.log goes with the folder
    raise UserError(f"{recipe.__name__}: ended without a step")


def describe(found: "Measurement", processes: int, images: str, stands_in: bool) -> list[str]:
    """Lines for people; ``stands_in``: the images were measured in the place of a large pool's."""
    step, speed = found.step / processes, processes * found.batch_size / found.step
    total = found.steps_per_epoch * found.epochs
    parts = {
        "training": found.first / processes + step * (total - 1),
        "the beginnings of epochs": found.epoch_start * found.epochs,
        f"{found.probes} probes": found.baselines + found.probe * found.probes,
        f"{found.checkpoints} checkpoints": found.checkpoint * found.checkpoints,
    }
    told = ", ".join(f"{name} {duration(value)}" for name, value in parts.items() if value > 0.5)
    apart = f" on {processes} processes that never wait for each other" * (processes > 1)
    lines = [
        f"measured on {found.device}: {counted(found.steps, 'step')} of {found.batch_size} images "
        f"after the first, {step:.3g} s each{apart}",
        f"  {rate(speed)} images/s; {found.data_wait:.0%} of a step is waiting for images; the "
        f"first step took {found.first / processes:.1f} s",
        *_of_ceiling(found),
        f"this run, on {images}: {total:,} steps "
        f"({found.epochs} epochs of {found.steps_per_epoch:,}), "
        f"{duration(sum(parts.values()))} ({told})",
    ]  # fmt: skip
    for name, count in _LUPERSON.items() if stands_in else ():
        lines.append(f"  {name}, as many epochs: {count * found.epochs / speed / 3600:,.1f} h")
    lines.append(
        f"memory: {found.memory / 1e9:.1f} GB a process with its loaders; disk: "
        f"{found.checkpoint_bytes * found.checkpoints_kept / 1e9:.2f} GB of checkpoints"
    )
    if found.watts:
        energy = found.watts * sum(parts.values()) * processes / 3.6e6
        lines.append(f"energy: {energy:.1f} kWh, at {found.watts:.0f} W a GPU")
    if found.data_wait > _STARVED:
        lines.append("the loaders are too slow: raise --run.num_workers, or pack the pool")
    return lines


def _of_ceiling(found: "Measurement") -> list[str]:
    """The line of how much of the device is used; none where it was not counted."""
    if found.ceiling_share is None:
        return []
    return [
        f"  {found.ceiling_share:.0%} of the rate that products of large matrices reach on this "
        "device"
    ]


def _pools(config: Any) -> dict[str, int]:
    """How many images the pool of the settings has, or LUPerson, if none is there."""
    if is_demo(config) or not os.path.exists(config.data.pool):
        return _LUPERSON
    count = len(data.open_pool(config.data.pool, config.data.subset))
    return {f"{images_of(config)} ({counted(count, 'image')})": count}


if __name__ == "__main__":
    command.run(main)
