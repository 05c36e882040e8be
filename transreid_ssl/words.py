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


def part_of(
    count: int, total: int, one: str, several: str | None = None, *, verb: str = "", its: str = ""
) -> str:
    """Some of what is counted: "2 of 5 images"; with a verb, "1 of 5 images is".

    Args:
        one, several: as ``counted`` takes them, here of the ``total``.
        verb: for one and for any other number, as "is/are".
        its: a word before the total, as in "2 of its 5 images".
    """
    of_one, _, of_several = verb.partition("/")
    said = f" {of_one if count == 1 else of_several}" * bool(verb)
    return f"{count:,} of {its}{' ' * bool(its)}{counted(total, one, several)}{said}"


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """A question to end a complaint with: which of the ``known`` words was meant by this one.

    "" where none is near. Small letters and capitals are alike; the last part of a dotted name will
    do.
    """
    names = {name.lower(): name for name in known}
    found = [name for name in names if name.endswith(f".{word.lower()}")]
    found = found or difflib.get_close_matches(word.lower(), names, 1)
    return f"; did you mean {prefix}{names[found[0]]}?" if found else ""
