"""TensorBoard, Weights & Biases, MLflow …, through Accelerate: settings, values and pictures."""

import re
from pathlib import Path
from typing import Any

import accelerate
from accelerate import tracking

from transreid_ssl import logs
from transreid_ssl.errors import UserError, brief
from transreid_ssl.training.config import flat
from transreid_ssl.words import nearest

_EXTRA = ("tensorboard", "wandb", "mlflow")
"""Those of ``pip install transreid_ssl[tracking]``."""


def check(name: str | None) -> None:
    """Accelerate leaves a tracker out, without a word, whose package is not installed.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    if name is None:
        return
    known = tracking.LOGGER_TYPE_TO_CLASS
    if name not in known:
        raise UserError(
            f"--run.tracker {name}: not known; choose one of {', '.join(known)}"
            + nearest(name, known)
        )
    if name not in [str(found) for found in tracking.get_available_trackers()]:
        extra = " (or transreid_ssl[tracking])" if name in _EXTRA else ""
        raise UserError(
            f"--run.tracker {name}: its package is not installed; run: pip install "
            f"{name.replace('_', '-')}{extra}, or leave the tracker out"
        )


def start(accelerator: accelerate.Accelerator, settings: dict[str, Any], recipe: str) -> None:
    """Start the tracker: a project is a recipe, a run in it is named as the run's folder.

    The settings are its hyperparameters: flat, such as ``optim.lr``, and numbers or text, as
    trackers take nothing else. Whose project it is and on which server is told by the tracker's
    own environment variables, such as WANDB_ENTITY and MLFLOW_TRACKING_URI.

    Args:
        settings: All of a recipe's, plain.
        recipe: What it does.

    Raises:
        UserError: the tracker cannot be started, as its server is not there, say.
    """
    output = settings["run"]["output"]
    name = Path(output).resolve().name
    own = {"wandb": {"name": name, "dir": output}, "mlflow": {"run_name": name}}
    told = {name: _plain(value) for name, value in flat(settings).items()}
    try:
        accelerator.init_trackers(_slug(recipe), config=told, init_kwargs=own)
    except Exception as error:  # each has its own
        reason = brief(error)
        raise UserError(
            f"--run.tracker {settings['run']['tracker']}: cannot be started ({reason}); see its "
            "own documentation, or leave the tracker out"
        ) from error


def log_picture(accelerator: accelerate.Accelerator, path: Path, step: int) -> None:
    """Show a PNG file of a run in those trackers that take pictures."""
    if not accelerator.is_main_process:
        return
    for tracker in accelerator.trackers:
        if tracker.name == "mlflow":
            tracker.log_artifact(str(path))
        elif tracker.name in ("tensorboard", "wandb"):
            from transreid_ssl.data.images import decode

            pixels = decode(path.read_bytes())  # (H, W, 3), uint8
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({path.stem: pixels[None]}, step=step, **layout)
        else:
            logs.RUN.debug(f"{path}: is not shown in {tracker.name}")


def _plain(value: Any) -> bool | int | float | str:
    """Trackers take nothing else."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _slug(title: str) -> str:
    """A title as the name of a folder, without spaces."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
