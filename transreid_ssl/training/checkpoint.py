"""Checkpoints: the complete state of a run in one file, written atomically."""

import re
from pathlib import Path
from typing import Any

import torch

from transreid_ssl.errors import UserError
from transreid_ssl.files import atomic_path

_NAME = re.compile(r"step_(\d+)\.pt$")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    found = [
        (int(m[1]), path) for path in folder.glob("step_*.pt") if (m := _NAME.search(path.name))
    ]
    return [path for _, path in sorted(found)]


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
    for old in list_checkpoints(folder)[: -max(1, keep)]:
        if not keep_every or int(_NAME.search(old.name)[1]) % keep_every:
            old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint's state on the CPU, or None. Only tensors and plain containers load.

    Raises:
        UserError: the newest checkpoint cannot be read.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return None
    try:
        return torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{checkpoints[-1]}: not a readable checkpoint; remove it to resume from an earlier one"
        ) from error
