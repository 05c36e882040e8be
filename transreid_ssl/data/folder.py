"""Pools of image files: a folder tree, listed once and remembered."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transreid_ssl.data.index import cached_names
from transreid_ssl.data.pool import EXTENSIONS, FilesPool
from transreid_ssl.errors import UserError
from transreid_ssl.progress import is_first, progress
from transreid_ssl.words import counted

# A folder that changed this shortly before it was listed may change again within the same tick of
# the file system's clock, unseen: such an index is not trusted.
_SETTLED_NS = 2_000_000_000
# Images that folders are not looked through for: few programs that train read them.
OTHER_FORMATS = (".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jfif")
ARCHIVES = (".tar", ".zip", ".tgz", ".tar.gz", ".7z")
_NAMED, _IRREGULAR = "names that are not text", "no regular files"
_LEFT_OUT = {
    _NAMED: ("whose name is not UTF-8", "whose names are not UTF-8"),
    _IRREGULAR: ("that is no regular file", "that are no regular files"),
}
"""What is left out beside files of other formats, of one and of several."""


class FolderPool(FilesPool):
    """All images below a folder, by sorted relative path.

    The list is cached with the time stamp of every folder, so an added or a removed image is seen.
    Links to folders are followed; hidden files and folders are not images. What looks like an image
    and is left out is counted in ``notes``: pipes, devices and broken links, names that are not
    UTF-8, and images of formats that are not looked for.
    """

    kind = "folder"

    def __init__(self, root: str | Path) -> None:
        names, notes = cached_names(
            f"folder {os.path.realpath(root)}",
            is_current=lambda state: _unchanged(str(root), state),
            build=lambda: _list_folder(str(root)),
        )
        if not len(names):
            raise UserError("; ".join([_why_empty(str(root)), *notes]))
        super().__init__(str(root), root, names, notes)


def _unchanged(root: str, state: dict[str, Any]) -> bool:
    """Whether every folder listed then still has its time stamp."""
    newest, folders = state["listed"] - _SETTLED_NS, state["folders"]
    with progress(len(folders), f"folders of {root} looked at", is_first()) as tick:
        try:
            for folder, mtime in folders:
                status = os.stat(os.path.join(root, folder))
                if mtime >= newest or status.st_mtime_ns != mtime:
                    return False
                tick()
        except OSError:
            return False
    return True


def list_images(root: str | Path) -> list[str]:
    """Sorted paths, relative to ``root``, of the images in it and below it."""
    return _list_folder(str(root))[0]


def _list_folder(root: str) -> tuple[list[str], dict[str, Any]]:
    listed = time.time_ns()
    names: list[str] = []
    folders, others = [], Counter()
    for folder, mtime, files, irregular in _walk_told(root):
        prefix = f"{folder}/" if folder else ""
        found = [prefix + name for name in files if name.lower().endswith(EXTENSIONS)]
        readable = found if is_utf8("".join(found)) else [name for name in found if is_utf8(name)]
        names.extend(readable)
        others[_NAMED] += len(found) - len(readable)
        others[_IRREGULAR] += sum(name.lower().endswith(EXTENSIONS) for name in irregular)
        others.update(
            extension for name in files if (extension := _extension(name)) in OTHER_FORMATS
        )
        folders.append((folder, mtime))
    names.sort()
    notes = [
        f"left out: {counted(count, *_LEFT_OUT.get(what, (f'{what} file', None)))}"
        for what, count in sorted(others.items())
        if count
    ]
    return names, {"listed": listed, "folders": folders, "notes": notes}


def is_utf8(name: str) -> bool:
    """Whether a path is text: bytes that are none come as surrogates, which cannot be encoded."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def walk(root: str) -> Iterator[tuple[str, int, list[str], list[str]]]:
    """Yield (relative folder, its time stamp, its visible files, what is no file), sub-folders too.

    Links are followed once each. What is no file may be a pipe, a device or a link to nowhere; it
    is never opened.
    """
    waiting, seen = [""], set()
    while waiting:
        folder = waiting.pop()
        path = os.path.join(root, folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            kinds: dict[str, list[str]] = {"folder": [], "file": [], "other": []}
            with os.scandir(path) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        kinds[_kind(entry)].append(entry.name)
        except OSError as error:
            raise UserError(f"{path}: cannot be listed ({error.strerror})") from error
        waiting += [f"{folder}/{name}" if folder else name for name in kinds["folder"]]
        yield folder, status.st_mtime_ns, kinds["file"], kinds["other"]


def _walk_told(root: str) -> Iterator[tuple[str, int, list[str], list[str]]]:
    """``walk``, which says how far it is where it takes long."""
    with progress(None, f"files of {root} listed", is_first()) as tick:
        for found in walk(root):
            tick(len(found[2]))
            yield found


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_file():
            return "file"
        return "folder" if entry.is_dir() else "other"
    except OSError:  # a link that goes round in a circle
        return "other"


def _why_empty(root: str) -> str:
    wanted = ", ".join(EXTENSIONS)
    for folder, _, files, _ in walk(root):
        for name in files:
            if name.lower().endswith((".parquet", "data.mdb", *ARCHIVES)):
                where = os.path.join(root, folder, name)
                advice = "unpack it first"
                if name.lower().endswith((".parquet", ".mdb")):
                    advice = f"open {os.path.dirname(where)} instead"
                return f"{root}: no image in it ({wanted}), but there is {where}: {advice}"
    return f"{root}: no image in it or below it (looked for {wanted})"
