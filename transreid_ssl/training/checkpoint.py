"""Checkpoints: the complete state of a run in one file, written atomically, verified on reading."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import nn
from torch.amp import GradScaler

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path
from transreid_ssl.reading import verify_zip
from transreid_ssl.training.sharding import dealt_out

_NAME = re.compile(r"step_(\d+)\.pt$")


def step_of(path: Path) -> int:
    """The steps behind the state in the checkpoint ``path``."""
    return int(_NAME.search(path.name)[1])


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted((p for p in folder.glob("step_*.pt") if _NAME.search(p.name)), key=step_of)


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], keep: int, keep_every: int = 0
) -> Path:
    """Write ``step_<step>.pt``, then remove all but the newest ``keep``.

    Those at multiples of ``keep_every`` stay too.

    Raises:
        UserError: the disk is full; the earlier checkpoints are untouched.
    """
    path = folder / f"step_{step:08d}.pt"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's writer hides the system's error in its own
            raise OSError(0, f"no space left, or a size limit was met: {error}") from error
    found = {step_of(old): old for old in list_checkpoints(folder)}
    for old in found.keys() - staying(found, keep, keep_every):
        found[old].unlink(missing_ok=True)
    return path


def staying(steps: Iterable[int], keep: int, keep_every: int) -> set[int]:
    """Of the steps that checkpoints are of, in order, those whose checkpoints are not removed."""
    steps = list(steps)
    kept = {step for step in steps if keep_every and not step % keep_every}
    return kept | set(steps[-max(1, keep) :])


def newest_sound(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be read, or None, and a line for each damaged one before it.

    A damaged one gets ".damaged" behind its name: it no longer counts as one of those to keep.

    Raises:
        UserError: there are checkpoints, and none of them can be read.
    """
    notes, damaged, sound = [], [], None
    for path in reversed(list_checkpoints(folder)):
        try:
            load_checkpoint(path)
        except UserError as error:
            notes.append(f"{error}; going on from the one before")
            damaged.append(path)
        else:
            sound = path
            break
    if damaged and sound is None:
        raise UserError(
            f"{folder}: none of its checkpoints can be read ({notes[0].rpartition(';')[0]}); "
            "--run.overwrite true begins anew"
        )
    for path in damaged:
        path.rename(path.with_name(f"{path.name}.damaged"))
    return sound, notes


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state on the CPU; only tensors and plain containers, and only if all checksums hold.

    Raises:
        UserError: the file cannot be read, is damaged, or is no checkpoint.
    """
    try:
        verify_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file raises nearly anything
        raise UserError(f"{path}: not a readable checkpoint") from error
    if not isinstance(state, dict) or not state.keys() >= _CONTENTS:
        raise UserError(f"{path}: not the checkpoint of a run")
    if state["step"] != step_of(path):
        raise UserError(f"{path}: not the checkpoint of that step, but of {state['step']}")
    return state


_CONTENTS = {"step", "data_key", "objective", "optimizer", "scaler", "bad_images"}


def capture(
    objective: nn.Module, optimizer: torch.optim.Optimizer, scaler: GradScaler | None
) -> dict[str, Any]:
    """The part of a state that ``restore`` takes."""
    return {
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
    }


def restore(
    path: Path,
    state: dict[str, Any],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler | None,
) -> None:
    """Go on from the state that was read from ``path``, sharded or not, as the networks are now.

    Raises:
        UserError: it is of another network, or of an optimiser that divides the parameters
            otherwise, as one of an older version may.
    """
    try:
        objective.load_state_dict(_like(state["objective"], objective.state_dict()))
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: holds the state of another network than this run's; move it away"
        ) from error
    try:
        optimizer.load_state_dict(_of_optimizer(state["optimizer"], optimizer))
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: its network is this run's, and its optimiser divides the parameters into "
            "other groups of rates and decay, as other settings or an older version do; go on "
            "with the version that config.yaml names, choose another --run.output, or "
            "--run.overwrite true to begin anew"
        ) from error
    if scaler and state["scaler"]:
        scaler.load_state_dict(state["scaler"])


def require_same_step(accelerator: accelerate.Accelerator, step: int, folder: Path) -> None:
    """See that all processes found the same state in the run folder.

    Raises:
        UserError: they go on from different steps.
    """
    if accelerator.num_processes == 1:
        return
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device))
    if steps.unique().numel() > 1:
        raise UserError(
            f"{folder}: processes find different checkpoints there; "
            "put --run.output on storage that all of them share"
        )


def _like(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A module's state, sharded as its own tensors are."""
    return state | {name: dealt_out(state[name], value) for name, value in own.items()}


def _of_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state, sharded as the parameters are that its numbers stand for.

    How its numbers are computed is this run's: a loss scaler and sharded weights depend on it.
    """
    groups = optimizer.param_groups
    way = {name: groups[0][name] for name in ("foreach", "fused") if name in groups[0]}
    numbered = dict(enumerate(p for group in groups for p in group["params"]))
    dealt = {
        number: {name: dealt_out(value, numbered[number]) for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return state | {
        "state": dealt, "param_groups": [group | way for group in state["param_groups"]],
    }  # fmt: skip
