"""What a training would take, measured by a few of its steps on this machine.

  python -m transreid_ssl.plan dino_pretrain --data.pool CROPS --run.epochs 100
  python -m transreid_ssl.plan --steps 20 --processes 8 dino_pretrain --config my.yaml

Said are images a second, the hours of the run and of the same epochs over LUPerson and its half,
memory and disk. Options of the plan stand before the recipe's name, those of the recipe after it;
without any the recipe's demo is measured. Nothing is written to the run's folder.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import torch

from transreid_ssl import command
from transreid_ssl.errors import UserError
from transreid_ssl.pretrain import PretrainingConfig
from transreid_ssl.training import parse_config
from transreid_ssl.training.clock import duration
from transreid_ssl.training.measure import Measured, Measurement, measuring

LUPERSON = 4_180_243
_STARVED = 0.1  # share of a step that is waited for images, above which loaders are too few


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and say it."""
    options = parse(arguments)
    recipe = load_recipe(options.recipe)
    measurement = measure(recipe, options.settings, options.steps, options.processes)
    passes = issubclass(recipe.Config, PretrainingConfig)
    print("\n".join(describe(measurement, options.processes, passes)))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with those of the recipe in ``settings``.

    Raises:
        UserError: numbers below 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m transreid_ssl.plan", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=10, help="to measure, after the first")
    parser.add_argument(
        "--processes", type=int, default=1,
        help="plan for so many like this one, each with its share of a batch; what they say to "
        "each other is not counted",
    )  # fmt: skip
    parser.add_argument("recipe", help="a file, or its name in recipes/")
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="the recipe's options")
    options = parser.parse_args(arguments)
    if min(options.steps, options.processes) < 1:
        raise UserError("--steps and --processes: give 1 or more")
    return options


def load_recipe(name: str) -> ModuleType:
    """The recipe at a path, or of this name in ``recipes/``.

    Raises:
        UserError: there is none, or it has several stages.
    """
    path = Path(name) if name.endswith(".py") else Path("recipes", f"{name}.py")
    if not path.is_file():
        raise UserError(
            f"{path}: there is no such recipe; give its path, or run this where they are"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    if not is_dataclass(getattr(module, "Config", None)) or not hasattr(module, "DEMO"):
        raise UserError(f"{path}: is no recipe, as it has no Config and no DEMO")
    if "source_training" in module.Config.__dataclass_fields__:
        raise UserError(
            f"{path}: has two stages; plan supervised_finetune and usl_finetune on their images"
        )
    return module


def measure(
    recipe: ModuleType, settings: Sequence[str], steps: int, processes: int = 1
) -> Measurement:
    """Run the first steps of a recipe, in a folder that is thrown away.

    For several processes this one computes their shares of a batch one after the other.

    Raises:
        UserError: what the recipe refuses, a batch that the processes cannot share, a GPU whose
            memory does not suffice, or a launch in several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a plan is made by one process: give --processes instead of launching many")
    config, _ = parse_config(recipe.Config, recipe.DEMO, recipe.__doc__, settings)
    parts = config.run.accumulation * processes
    if config.run.batch_size % parts:
        raise UserError(f"--processes {processes}: do not share {config.run.batch_size} images")
    with tempfile.TemporaryDirectory() as folder, measuring(steps):
        own = [f"--run.output={folder}/run", "--run.tracker=null", f"--run.accumulation={parts}"]
        try:
            recipe.main([*settings, *own])
        except Measured as end:
            return end.measurement
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not suffice for {config.run.batch_size // parts} images at "
                "once: raise --run.accumulation, or give --model.gradient_checkpointing true"
            ) from error
    raise UserError(f"{recipe.__name__}: ended without a step")


def describe(found: Measurement, processes: int, passes: bool) -> list[str]:
    """Lines for people; ``passes``: an epoch is a pass over the pool."""
    step, rate = found.step / processes, processes * found.batch_size / found.step
    total = found.steps_per_epoch * found.epochs
    parts = {
        "training": found.first / processes + step * (total - 1),
        "the beginnings of epochs": found.epoch_start * found.epochs,
        f"{found.probes} probes": found.baselines + found.probe * found.probes,
        f"{found.checkpoints} checkpoints": found.checkpoint * found.checkpoints,
    }
    told = ", ".join(f"{name} {duration(value)}" for name, value in parts.items() if value > 0.5)
    lines = [
        f"measured on {found.device}: {found.steps} step(s) of {found.batch_size} images after the "
        f"first, {step:.3g} s each" + f" on {processes} processes that never wait for each other"
        * (processes > 1),
        f"  {_number(rate)} images/s; {found.data_wait:.0%} of a step is waiting for images; the "
        f"first step took {found.first / processes:.1f} s",
        f"this run: {total:,} steps ({found.epochs} epochs of {found.steps_per_epoch:,}), "
        f"{duration(sum(parts.values()))} ({told})",
    ]  # fmt: skip
    for name, count in _pools().items() if passes else ():
        lines.append(f"  {name}, as many epochs: {count * found.epochs / rate / 3600:,.1f} h")
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


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _pools() -> dict[str, int]:
    return {f"LUPerson ({LUPERSON:,} images)": LUPERSON, "its half": LUPERSON // 2}


if __name__ == "__main__":
    command.run(main)
