"""Lists of image paths, as pools of their own and as parts of other pools."""

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transreid_ssl.data.index import Names, cached_names
from transreid_ssl.data.pool import FilesPool
from transreid_ssl.errors import UserError, brief
from transreid_ssl.reading import read_content, read_lines
from transreid_ssl.words import counted, part_of


class ListPool(FilesPool):
    """The files named by a text file, one path a line, or by a Parquet table's column ``image``.

    Paths are absolute, or relative to the folder of the list and below it; empty lines and lines
    that begin with ``#`` are skipped, and what is listed twice counts once.
    """

    kind = "list"

    def __init__(self, path: str | Path) -> None:
        root = os.path.dirname(os.path.abspath(path))
        names, notes = cached_names(
            f"list {os.path.realpath(path)}",
            is_current=lambda state: state == state | _stamp(path),
            build=lambda: _read_list(path),
        )
        if not len(names):
            raise UserError(f"{path}: the list is empty")
        looked_for = [names[int(i)] for i in np.linspace(0, len(names) - 1, 20)]
        if not any(os.path.exists(os.path.join(root, name)) for name in looked_for):
            raise UserError(
                f"{path}: the listed files do not exist (such as {looked_for[0]!r} in {root}); "
                "if this is a subset of a pool, give the pool's path and this file as its subset"
            )
        super().__init__(str(path), root, names, notes)


def _read_list(path: str | Path) -> tuple[Names, dict[str, Any]]:
    stamp = _stamp(path)  # of before it is read: what changes meanwhile is seen the next time
    names, notes = once_each(read_names(path))
    refuse_leaving(names, path)
    return names, stamp | {"notes": notes}


def once_each(names: Names) -> tuple[Names, list[str]]:
    """The first of all equal names, and a note if any was there twice."""
    unique = Names(pc.unique(names.column))
    repeated = len(names) - len(unique)
    return unique, [f"{counted(repeated, 'repeated name')} counted once"] * (repeated > 0)


def refuse_leaving(names: Names, path: str | Path, absolute: bool = True) -> None:
    """Raise ``UserError`` if a relative name leads out of its folder.

    ``path`` is the list that has the names; ``absolute`` ones may stand in it or not.
    """
    pattern = r"(^|/)\.\.(/|$)" if absolute else r"(^|/)\.\.(/|$)|^/"
    for name in names.take(np.flatnonzero(pc.match_substring_regex(names.column, pattern))):
        if os.path.normpath(name).startswith((os.pardir, "/")) and not (
            absolute and name.startswith("/")
        ):
            raise UserError(
                f"{path}: {name!r} is outside of the folder that its paths are relative to; "
                + ("write it as an absolute path" if absolute else "take it out of the list")
            )


def read_names(path: str | Path) -> Names:
    """The names in a text file (one a line) or in a Parquet table's column ``image``.

    Raises:
        UserError: no such file, not text, or a table without that column.
    """
    if str(path).endswith(".parquet"):
        return _read_name_column(path)
    if str(path).endswith((".pkl", ".pickle")):
        raise UserError(
            f"{path}: is a pickle; make a table of it first: python -m transreid_ssl.cfs import "
            f"{shlex.quote(str(path))} --out subset.parquet"
        )
    lines = (line.strip() for line in read_lines(path))
    return Names.of([line for line in lines if line and not line.startswith("#")])


def _read_name_column(path: str | Path) -> Names:
    read_content(path, 0)  # a pipe would be waited for
    try:
        column = pq.read_table(path, columns=["image"]).column("image")
        if not is_text(column.type):
            raise KeyError(column.type)
        return checked_names(column, path)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a Parquet table with a text column 'image' ({brief(error)})"
        ) from error


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def checked_names(column: pa.ChunkedArray, path: str | Path) -> Names:
    """A column of text as names.

    Raises:
        UserError: an entry is missing.
        pa.ArrowException: text that is not UTF-8; Arrow reads it without looking at it.
    """
    column = column.cast(pa.large_string()).combine_chunks()
    column.validate(full=True)
    if column.null_count:
        raise UserError(
            f"{path}: {part_of(column.null_count, len(column), 'name', verb='is/are', its='its')} "
            "missing"
        )
    return Names(column)


def _stamp(path: str | Path) -> dict[str, Any]:
    status = os.stat(path)
    return {"mtime": status.st_mtime_ns, "size": status.st_size}
