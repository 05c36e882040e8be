"""Whose a run folder is: its mark and lock, the settings it was begun with, what it has written."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

from transreid_ssl import logs
from transreid_ssl.errors import UserError
from transreid_ssl.outputs import BACKBONE, BEST, MARK, MODEL
from transreid_ssl.training.config import as_plain, differences, with_defaults
from transreid_ssl.training.yaml_files import read_yaml

# What may change between two starts of a run without changing what it computes (threads, and what a
# compiler computes twice, may change the last digits of sums). Where images lie is free, as the
# fingerprint of a pool says which images they are.
_PLACES = {"pool", "subset", "root"}
FREE_SETTINGS: dict[str, set[str] | None] = {
    "run": {
        "output",
        "extend_to",
        "not_finite",
        "num_workers",
        "num_threads",
        "log_every",
        "checkpoint_every",
        "compile_memory",
        "keep_checkpoints",
        "keep_every",
        "overwrite",
        "page",
        "shard",
        "timeout_minutes",
        "tracker",
        "verbosity",
    },
    "data": _PLACES,
    "source": _PLACES,
    "target": _PLACES,
    "probe": None,
}
"""By section the settings that are free; None: all of it."""

_taken: set[Path] = set()
"""The folders that this process trains in."""
LINEAGE = "lineage.json"
"""What is known of the weights that a run began with, which it does not need again."""
BEGUN = "begun.json"
"""What a run is and how it goes on, noted at each start: see ``begun.py``."""
WRITTEN = (
    "config.yaml", BEGUN, "metrics.jsonl", logs.FILE, "curves.png", "report.json", "report.html",
    "left_out.json", LINEAGE, "bad_images.txt", "bad_images_met.txt", "not_finite_step_*.txt",
    "checkpoints/step_*.pt", "checkpoints/step_*.pt.damaged", f"checkpoints/{BEST}",
    BACKBONE, MODEL, BEST,
)  # fmt: skip
"""What a run writes into its folder, and all that ``overwrite`` removes from it."""


def refuse_foreign(folder: Path) -> None:
    """A folder that holds anything, and no mark of a run, is somebody's."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{folder}: is not a folder that can be read ({error.strerror}); choose another "
            "--run.output"
        ) from error
    if names and MARK not in names:
        raise UserError(
            f"{folder}: is not the folder of a run (it holds {names[0]}, which no run has "
            "written); choose another --run.output"
        )


def take(folder: Path) -> None:
    """Lock the folder; a lock of this kind ends with its process and reaches other nodes."""
    mark = folder / MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Left open: the lock lasts as long as the process.
        lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"{mark}: cannot be written ({error.strerror}); choose another --run.output"
        ) from error
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(lock, 200).decode(errors="replace").strip()
        os.close(lock)
        raise UserError(
            f"{folder}: {owner or 'another process'} trains in it; wait for its end, stop "
            "it, or choose another --run.output"
        ) from error
    except OSError:
        pass  # a file system without locks
    _taken.add(folder.resolve())
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def is_taken(folder: Path) -> bool:
    """Whether a process trains in the folder, as far as its file system knows locks."""
    if folder.resolve() in _taken:  # to open its mark and close it would end the lock
        return True
    try:
        with open(folder / MARK, "rb") as mark:
            fcntl.lockf(mark, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        pass  # no mark, or a file system without locks
    return False


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that the run in a folder was begun with.

    Raises:
        UserError: what is there are no settings.
    """
    path = folder / "config.yaml"
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: not the settings of a run; choose another --run.output")
    return settings


def check_same(folder: Path, config: Any) -> None:
    """Refuse settings that a begun run was not begun with, but for those that are free.

    A setting that is newer than the run had its default.
    """
    before = with_defaults(read_settings(folder), config)
    found = differences(_without_free(before), _without_free(as_plain(config)))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{folder}: belongs to a run with other settings: {'; '.join(found[:3])}{more}; "
            "choose another --run.output, or --run.overwrite true to begin anew"
        )


def remove_run(folder: Path) -> None:
    """Remove what a run and its stages have written in ``folder``, and nothing else."""
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            path.unlink()
    for stage in [mark.parent for mark in folder.glob(f"*/{MARK}")]:
        remove_run(stage)
    checkpoints = folder / "checkpoints"
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _without_free(config: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for section, value in config.items():
        free = FREE_SETTINGS.get(section, ())
        if free is None:
            continue
        if isinstance(value, dict):
            value = {name: setting for name, setting in value.items() if name not in free}
        kept[section] = value
    return kept
