"""Names that are too long for their place: cut in the middle, as their ends tell them apart."""

import re

from markupsafe import Markup, escape

_BREAKS = re.compile(r"(?<=[_/…-])(?=[^_/…-])|(?<=…)")
"""After these a line may end."""


def shorten(name: str, most: int) -> str:
    """``name`` in at most so many letters: its beginning and its end, and three dots between."""
    if len(name) <= most:
        return name
    end = most // 2
    return f"{name[: most - 1 - end]}…{name[len(name) - end :]}"


def in_lines(name: str, most: int = 32) -> Markup:
    """``shorten`` for a narrow place of a page: lines end where the parts of the name do."""
    return Markup("<wbr>").join(map(escape, _BREAKS.split(shorten(name, most))))
