"""What the layouts of labelled sets share: finding their folders, and labels in names as numbers.

A label that stands for "none" is never one that a set gives as well: identities and cameras may be
numbered from 0 or from 1, or be text.
"""

import re
import warnings
from pathlib import Path

import numpy as np

from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import UserError
from transreid_ssl.words import part_of

_LARGEST = 10**15  # labels are added to and packed together: this leaves them room in int64


def find_home(
    root: Path,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    what: str,
    advice: str = "give the folder with them",
    optional: tuple[str, ...] = (),
) -> Path:
    """``root`` itself or its sub-folder of a usual name, whichever holds the most of ``wanted``.

    Raises:
        UserError: it lacks some that are not ``optional``; all that it lacks is named.
    """
    lacking = {
        folder: [entry for entry in wanted if not (folder / entry).exists()]
        for folder in (root, *(root / name for name in names))
    }
    closest = min(lacking, key=lambda folder: len(lacking[folder]))
    if set(lacking[closest]) - set(optional):
        raise UserError(f"{closest}: not {what}: it lacks {', '.join(lacking[closest])}; {advice}")
    return closest


def read_labels(
    root: Path, names: list[str], pattern: str, what: str
) -> tuple[list[str], list[str], list[str | None]]:
    """The names again, and the identity and the camera in each, as text.

    Raises:
        UserError: no image, or one whose name does not match or has no identity in it.
    """
    if not names:
        raise UserError(f"{root}: no image of {what} in it")
    expression = compile_pattern(pattern, "identity")
    matches = [expression.search(name) for name in names]
    wrong = [n for n, match in zip(names, matches) if match is None or not match["identity"]]
    if wrong:
        mend = (
            "give a --pattern of their own, of the set folder"
            if pattern == DEFAULT_PATTERN
            else "correct it"
        )
        if len(wrong) < len(names):
            mend = "move those images away, or give a pattern that all match, of the set folder"
        raise UserError(
            f"{root}: {part_of(len(wrong), len(names), 'image name')}, such as {wrong[0]!r}, "
            f"{'does' if len(wrong) == 1 else 'do'} not match "
            f"'{pattern}'{where_it_fails(expression, wrong[0])}; {mend}"
        )
    groups = [match.groupdict() for match in matches]
    cameras = [group.get("camera") or None for group in groups]
    return names, [group["identity"] for group in groups], cameras


def where_it_fails(expression: re.Pattern[str], name: str) -> str:
    """Which beginning of a pattern a name has, and which part it does not; "" if nobody can tell.

    A pattern is shortened until it matches, so that it is the first part that fails that is named.
    """
    pattern = expression.pattern
    if "|" in pattern:  # half of it may match anything
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of beginnings that nobody wrote
        for end in range(len(pattern) - 1, 0, -1):
            try:
                found = re.search(pattern[:end], name)
            except re.error:  # cut within a group
                continue
            if found and found.group():
                return f" ('{pattern[:end]}' finds {found.group()!r}, and '{pattern[end:]}' fails)"
    return ""


def compile_pattern(pattern: str, *groups: str) -> re.Pattern[str]:
    """A regular expression that a user gives.

    Raises:
        UserError: it is none, or lacks one of the named ``groups``.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"'{pattern}': not a regular expression ({error})") from error
    for group in groups:
        if group not in expression.groupindex:
            raise UserError(f"'{pattern}': lacks the group (?P<{group}>…)")
    return expression


def integers(texts: list[str], where: str | Path) -> np.ndarray:
    """Labels that are numbers as int64 (N,).

    Raises:
        UserError: one that is no number, or too large a one.
    """
    try:
        numbers = [int(text) for text in texts]
    except ValueError as error:
        raise UserError(f"{where}: a label is no whole number ({error})") from error
    if any(abs(number) > _LARGEST for number in numbers):
        raise UserError(f"{where}: a label is larger than {_LARGEST:,}; number people from 0 or 1")
    return np.array(numbers, np.int64)


def not_below_zero(parts: list[np.ndarray], usual: int = 0) -> list[np.ndarray]:
    """Cameras of the parts of a set, less ``usual``, or less the lowest where it is lower yet."""
    lowest = min((int(cameras.min()) for cameras in parts if len(cameras)), default=0)
    return [cameras - min(usual, lowest) for cameras in parts]


def encode(parts: list[list[str]]) -> list[np.ndarray]:
    """Numbers as they are; any other text by its rank among all texts of all parts."""
    texts = {text for part in parts for text in part}
    try:
        numbers = {text: int(text) for text in texts}
        if any(abs(number) > _LARGEST for number in numbers.values()):
            raise ValueError("larger than labels may be")
    except ValueError:
        numbers = {text: rank for rank, text in enumerate(sorted(texts))}
    return [np.array([numbers[text] for text in part], np.int64) for part in parts]
