"""Names and numbers in narrow places: cut in the middle, as their ends tell names apart."""

import math
import re
from collections.abc import Sequence

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


def digits(values: Sequence[float]) -> int:
    """Digits after the point that tell neighbours among these values apart: 2 to 7.

    Networks differ: the similarities of one spread over 0.3, all of another's lie above 0.9999.
    """
    span = max(values, default=1.0) - min(values, default=0.0)
    step = span / max(1, len(values) - 1)
    return min(7, max(2, math.ceil(-math.log10(step)) if step > 0 else 2))


def decimal(value: float, places: int) -> str:
    """A number with so many digits after the point; what rounds to 0 has no sign."""
    return f"{value:z.{places}f}"


def keep_options(text: str) -> Markup:
    """A text of a page in which no line ends within ``--an_option``."""
    parts = re.split(r"(--\w+)", text)  # every other one is an option
    parts[1::2] = (Markup('<span class="whole">{}</span>').format(part) for part in parts[1::2])
    return Markup().join(parts)
