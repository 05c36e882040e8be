"""Damaging files at random, and what may come of reading them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transreid_ssl.errors import UserError
from transreid_ssl.models import raw


def damaged(content: bytes, places: Iterable[tuple[int, int]]) -> bytes:
    """``content`` with other bytes at places, each counted round and round."""
    changed = bytearray(content)
    for place, value in places:
        changed[place % len(changed)] = value
    return bytes(changed)


def outcome(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or the ``UserError`` that it raises, which must be one line."""
    try:
        return read()
    except UserError as error:
        said = error
    assert len(str(said).splitlines()) == 1
    return said


def read_and_cut(path: Path) -> None:
    """Read the ones of "other" in a file of weights, cut the file short, and then count them."""
    if path.suffix == ".safetensors":
        state, _ = raw.read_safetensors(path)
    else:
        state = raw.read_pickle(path)
    os.truncate(path, 100)
    assert state["other"].sum() == state["other"].numel() > 2**18
