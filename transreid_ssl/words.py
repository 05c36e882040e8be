"""Counts in words and misspelt words, in one way for all that is printed and all pages."""

import difflib
from collections.abc import Iterable


def counted(count: int, one: str, several: str | None = None) -> str:
    """A count and what is counted: "1 image", "2,000 images".

    Args:
        one: the word for one.
        several: for any other number; ``one`` and an s, where it is None.
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """A question to end a complaint with: which of the ``known`` words was meant by this one.

    "" where none is near. Small letters and capitals are alike; the last part of a dotted name will
    do.
    """
    names = {name.lower(): name for name in known}
    found = [name for name in names if name.endswith(f".{word.lower()}")]
    found = found or difflib.get_close_matches(word.lower(), names, 1)
    return f"; did you mean {prefix}{names[found[0]]}?" if found else ""
