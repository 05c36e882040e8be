"""Names in narrow places of a page: cut in the middle, as their ends tell them apart; options."""

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


def keep_options(text: str) -> Markup:
    """A text of a page in which no line ends within ``--an_option``."""
    parts = re.split(r"(--\w+)", text)  # every other one is an option
    parts[1::2] = (Markup('<span class="whole">{}</span>').format(part) for part in parts[1::2])
    return Markup().join(parts)
