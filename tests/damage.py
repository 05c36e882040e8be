"""Damaging files at random, and what may come of reading them."""

from collections.abc import Callable, Iterable
from typing import Any

from transreid_ssl.errors import UserError


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
