"""Pools of image files: a folder tree, listed once and remembered, and lists of paths."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transreid_ssl.data.index import Names, cached_names
from transreid_ssl.data.pool import EXTENSIONS, FilesPool
from transreid_ssl.errors import UserError

# A folder that changed this shortly before it was listed may change again within the same tick of
# the file system's clock, unseen: such an index is not trusted.
_SETTLED_NS = 2_000_000_000
_CONTAINERS = ("data.mdb", ".parquet", ".tar", ".zip", ".tgz", ".tar.gz", ".7z")


class FolderPool(FilesPool):
    """All images below a folder, by sorted relative path.

    The list is cached with the time stamp of every folder, so an added or a removed image is seen.
    Links to folders are followed; hidden files and folders are not images.
    """

    kind = "folder"

    def __init__(self, root: str | Path) -> None:
        names = cached_names(
            f"folder {os.path.realpath(root)}",
            is_current=lambda state: _unchanged(str(root), state),
            build=lambda: _list_folder(str(root)),
        )
        if not len(names):
            raise UserError(_why_empty(str(root)))
        super().__init__(str(root), root, names)


class ListPool(FilesPool):
    """The files named by a text file, one path a line, or by a Parquet table's column ``image``.

    Paths are absolute or relative to the folder of the list; empty lines and lines that begin with
    ``#`` are skipped.
    """

    kind = "list"

    def __init__(self, path: str | Path) -> None:
        root = os.path.dirname(os.path.abspath(path))
        names = cached_names(
            f"list {os.path.realpath(path)}",
            is_current=lambda state: state == _stamp(path),
            build=lambda: (list(read_names(path)), _stamp(path)),
        )
        if not len(names):
            raise UserError(f"{path}: the list is empty")
        looked_for = [names[int(i)] for i in np.linspace(0, len(names) - 1, 20)]
        if not any(os.path.exists(os.path.join(root, name)) for name in looked_for):
            raise UserError(
                f"{path}: the listed files do not exist (such as {looked_for[0]!r} in {root}); "
                "if this is a subset of a pool, give the pool's path and this file as its subset"
            )
        super().__init__(str(path), root, names)


def read_names(path: str | Path) -> Names:
    """The names in a text file (one a line) or in a Parquet table's column ``image``.

    Raises:
        UserError: no such file, not text, or a table without that column.
    """
    try:
        if str(path).endswith(".parquet"):
            column = pq.read_table(path, columns=["image"]).column("image")
            return Names(column.cast(pa.large_string()).combine_chunks())
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: neither a text list of image paths nor a known pool") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, OSError) as error:
        raise UserError(f"{path}: not a Parquet table with a text column 'image'") from error
    lines = (line.strip() for line in text.splitlines())
    return Names.of([line for line in lines if line and not line.startswith("#")])


def _stamp(path: str | Path) -> dict[str, Any]:
    status = os.stat(path)
    return {"mtime": status.st_mtime_ns, "size": status.st_size}


def _unchanged(root: str, state: dict[str, Any]) -> bool:
    """Whether every folder listed then still has its time stamp."""
    newest = state["listed"] - _SETTLED_NS
    try:
        return all(
            mtime < newest and os.stat(os.path.join(root, folder)).st_mtime_ns == mtime
            for folder, mtime in state["folders"]
        )
    except OSError:
        return False


def list_images(root: str | Path) -> list[str]:
    """Sorted paths, relative to ``root``, of the images in it and below it."""
    return _list_folder(str(root))[0]


def _list_folder(root: str) -> tuple[list[str], dict[str, Any]]:
    listed = time.time_ns()
    names: list[str] = []
    folders = []
    for folder, mtime, files in _walk(root):
        folders.append((folder, mtime))
        prefix = f"{folder}/" if folder else ""
        names.extend(prefix + name for name in files if name.lower().endswith(EXTENSIONS))
    names.sort()
    return names, {"listed": listed, "folders": folders}


def _walk(root: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (relative folder, its time stamp, its visible files), following links once each."""
    waiting, seen = [""], set()
    while waiting:
        folder = waiting.pop()
        path = os.path.join(root, folder)
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        files = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        waiting.append(f"{folder}/{entry.name}" if folder else entry.name)
                    else:
                        files.append(entry.name)
        except OSError as error:
            raise UserError(f"{path}: cannot be listed ({error.strerror})") from error
        yield folder, status.st_mtime_ns, files


def _why_empty(root: str) -> str:
    wanted = ", ".join(EXTENSIONS)
    for folder, _, files in _walk(root):
        for name in files:
            if name.lower().endswith(_CONTAINERS):
                where = os.path.join(root, folder, name)
                advice = "unpack it first"
                if name.lower().endswith((".parquet", ".mdb")):
                    advice = f"open {os.path.dirname(where)} instead"
                return f"{root}: no image in it ({wanted}), but there is {where}: {advice}"
    return f"{root}: no image in it or below it (looked for {wanted})"
