"""What a training would take, measured by a few of its steps on this machine.

  python -m transreid_ssl.plan dino_pretrain --data.pool CROPS --run.epochs 100
  python -m transreid_ssl.plan --steps 20 --processes 8 dino_pretrain --config my.yaml

Said are images a second, the hours of the run and of the same epochs over LUPerson and its half,
memory and disk. Options of the plan stand before the recipe's name, those of the recipe after it;
without any the recipe's demo is measured. Nothing is written to the run's folder.
"""

import argparse
import contextlib
import importlib.util
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from transreid_ssl import command
from transreid_ssl.errors import UserError
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
    print("\n".join(describe(measurement, options.steps, options.processes)))


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
    if not hasattr(module, "Config"):
        raise UserError(f"{path}: is no recipe, as it has no Config")
    if "source_training" in module.Config.__dataclass_fields__:
        raise UserError(
            f"{path}: has two stages; plan supervised_finetune and usl_finetune on their images"
        )
    return module


def measure(
    recipe: ModuleType, settings: Sequence[str], steps: int, processes: int = 1
) -> Measurement:
    """Run the first steps of a recipe, in a folder that is thrown away.

    Raises:
        UserError: what the recipe refuses, a batch that the processes cannot share, or a GPU whose
            memory does not suffice.
    """
    config, _ = parse_config(recipe.Config, recipe.DEMO, recipe.__doc__, settings)
    batch_size, rest = divmod(config.run.batch_size, processes)
    if rest:
        raise UserError(f"--processes {processes}: do not share {config.run.batch_size} images")
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, measuring(steps):
        own = [f"--run.output={folder}/run", "--run.tracker=null", f"--run.batch_size={batch_size}"]
        try:
            import torch

            with contextlib.redirect_stdout(said):
                recipe.main([*settings, *own])
        except Measured as end:
            return end.measurement
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not suffice for {batch_size} images at once: divide them "
                "with --run.accumulation, or give --model.gradient_checkpointing true"
            ) from error
    raise UserError(f"{recipe.__name__}: ended before a step was made: {said.getvalue().strip()}")


def describe(found: Measurement, steps: int, processes: int = 1) -> list[str]:
    """Lines for people."""
    rate = found.images_per_second * processes
    per_epoch = found.steps_per_epoch // processes
    total = per_epoch * found.epochs
    parts = {
        "training": found.first + found.step * (total - 1),
        "the beginnings of epochs": found.epoch_start * found.epochs,
        f"{found.probes} probes": found.probe * found.probes,
        f"{found.checkpoints} checkpoints": found.checkpoint * found.checkpoints,
    }
    told = ", ".join(f"{name} {duration(value)}" for name, value in parts.items() if value > 0.5)
    hours = {name: count * found.epochs / rate / 3600 for name, count in _pools().items()}
    lines = [
        f"measured on {found.device}: {steps} step(s) of {found.batch_size} images, "
        f"{found.step:.3g} s each, after a first one of {found.first:.1f} s",
        f"  {rate:.3g} images/s" + f" on {processes} processes, if they never wait for each other"
        * (processes > 1) + f"; {found.data_wait:.0%} of a step is waiting for images",
        f"this run: {total:,} steps ({found.epochs} epochs of {per_epoch:,}), "
        f"{duration(sum(parts.values()))} ({told})",
        *(f"  {name}, as many epochs: {value:,.1f} h" for name, value in hours.items()),
        f"memory: {found.memory / 1e9:.1f} GB a process with its loaders; disk: "
        f"{found.checkpoint_bytes * found.checkpoints_kept / 1e9:.2f} GB of checkpoints",
    ]  # fmt: skip
    if found.watts:
        energy = found.watts * sum(parts.values()) * processes / 3.6e6
        lines.append(f"energy: {energy:.1f} kWh, at {found.watts:.0f} W a GPU")
    if found.data_wait > _STARVED:
        lines.append("the loaders are too slow: raise --run.num_workers, or pack the pool")
    return lines


def _pools() -> dict[str, int]:
    return {f"LUPerson ({LUPERSON:,} images)": LUPERSON, "its half": LUPERSON // 2}


if __name__ == "__main__":
    command.run(main)
