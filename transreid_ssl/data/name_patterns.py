"""What the names of crops seem to tell: a pattern for them, guessed from what repeats in them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_WORDS = {
    "camera": ("c", "cam", "camera", "view"),
    "track": ("t", "tr", "trk", "track", "tracklet", "tid"),
    "frame": ("f", "fr", "frame"),
    "identity": ("id", "identity", "p", "pid", "person"),
}
"""What stands before the number of each."""
_LOOKED_AT = 100_000  # names
_RUN = 5_000  # of which so many follow one another, as the images of a track do
_DIGITS = 18  # of a frame at most, which is an int64
_REPEATED = 1.5  # images of a track or a person at least, on average


@dataclass(frozen=True)
class NamePattern:
    """A regular expression that finds the same in all names that were looked at.

    Attributes:
        pattern: with the groups track and frame, or identity, and perhaps camera.
        example: a name.
        found: what the groups are in it.
        dense: whether frames of a track mostly follow one another in fewer than five.
    """

    pattern: str
    example: str
    found: dict[str, str]
    dense: bool = False


class _Token(NamedTuple):
    """What differs from name to name: a number, or a whole folder."""

    before: str
    """What stands between it and the token before, in all names."""
    values: list[str]
    expression: str

    @property
    def word(self) -> str:
        return _last_word(self.before.rstrip("_-. ")).lower()

    @property
    def count(self) -> int:
        return len(set(self.values))


def _last_word(text: str) -> str:
    return re.findall("[A-Za-z]*$", text)[0]


def guess_pattern(names: Sequence[str]) -> NamePattern | None:
    """A pattern for names that are all built alike, or None where they tell nothing that repeats.

    A number is a camera, a track, a frame or an identity by the word before it, else by how many
    values it has: frames, which come last, have the most, cameras the fewest. The pattern has been
    tried: it finds these numbers in every name, no two crops of a track are of one frame, and
    tracks (or people) have more than one image.
    """
    looked_at = _some(names)
    tokens = _tokens(looked_at)
    roles = _roles(tokens) if tokens else {}
    wanted = ("track", "frame", "camera") if "track" in roles else ("identity", "camera")
    roles = {role: place for role, place in roles.items() if role in wanted}
    if not roles.keys() >= {*wanted} - {"camera"}:
        return None
    values = {role: tokens[place].values for role, place in roles.items()}
    if not _sensible(values):
        return None
    for whole in (False, True):
        pattern = _spelled(tokens, roles, whole)
        found = [re.search(pattern, name) for name in looked_at]
        if all(found) and all([one[r] for one in found] == values[r] for r in roles):
            said = {role: values[role][0] for role in wanted if role in roles}
            return NamePattern(pattern, looked_at[0], said, _dense(values))
    return None


def without_camera(pattern: str) -> str | None:
    """A pattern that finds the same and names no camera, or None where that would be none.

    A pattern that goes back to a group, by ``(?P=camera)``, ``(?(camera)…)`` or ``\\2``, keeps this
    one under another name: without it what goes back would find another group, or none.
    """
    found = pattern.replace("(?P<camera>", "(?:")
    if re.search(r"\(\?P=|\(\?\(|\\[1-9]", pattern):
        found = re.sub(r"(\(\?P<|\(\?P=|\(\?\()camera\b", r"\1place", pattern)
    try:
        return None if "camera" in re.compile(found).groupindex else found
    except re.error:
        return None


def _some(names: Sequence[str]) -> list[str]:
    """All names, or runs of them from all over a large pool."""
    if len(names) <= _LOOKED_AT:
        return list(names)
    starts = np.linspace(0, len(names) - _RUN, _LOOKED_AT // _RUN).astype(int)
    return [name for start in starts.tolist() for name in names[start : start + _RUN]]


def _tokens(names: list[str]) -> list[_Token]:
    """What differs in names that are built alike; none where they are not."""
    paths = [name.split("/") for name in names]
    if len({len(path) for path in paths}) != 1:
        return []
    found, before = [], ""
    for depth, column in enumerate(zip(*paths)):
        before += "/" if depth else ""
        pieces = [re.split(r"(\d+)", part) for part in column]
        if len({tuple(piece[::2]) for piece in pieces}) == 1:
            for place, text in enumerate(pieces[0][:-1:2]):
                values = [piece[2 * place + 1] for piece in pieces]
                found.append(_Token(before + text, values, r"\d+"))
                before = ""
            before += pieces[0][-1]
        elif depth < len(paths[0]) - 1:
            found.append(_Token(before, list(column), "[^/]+"))
            before = ""
        else:
            return []
    return found


def _roles(tokens: list[_Token]) -> dict[str, int]:
    """Which token is what: by its word, else by its number of values."""
    roles: dict[str, int] = {}
    for place, token in enumerate(tokens):
        for role, words in _WORDS.items():
            if token.word in words and token.expression == r"\d+":
                roles.setdefault(role, place)
    if "frame" in roles and "track" not in roles and "identity" in roles:
        roles["track"] = roles.pop("identity")  # the number that a tracker gave
    free = [n for n, one in enumerate(tokens) if n not in roles.values() and one.count > 1]
    numbers = [place for place in free if tokens[place].expression == r"\d+"]
    if "frame" not in roles and numbers:
        if tokens[numbers[-1]].count < max(tokens[place].count for place in numbers):
            return {}
        roles["frame"] = numbers[-1]
        free.remove(roles["frame"])
    if "track" not in roles and "identity" not in roles and free:
        roles["track"] = max(free, key=lambda place: tokens[place].count)
        free.remove(roles["track"])
    if "camera" not in roles and free:
        roles["camera"] = min(free, key=lambda place: tokens[place].count)
    return roles


def _sensible(values: dict[str, list[str]]) -> bool:
    """Whether tracks or people repeat, and no track has two crops in one frame."""
    who = "track" if "track" in values else "identity"
    cameras = values.get("camera", [""] * len(values[who]))
    groups = Counter(zip(cameras, values[who]) if who == "track" else values[who])
    if len(groups) < 2 or len(values[who]) < _REPEATED * len(groups):
        return False
    if who == "identity":
        return True
    if max(map(len, values["frame"])) > _DIGITS:
        return False
    return len(set(zip(cameras, values["track"], values["frame"]))) == len(cameras)


def _dense(values: dict[str, list[str]]) -> bool:
    if "track" not in values:
        return False
    cameras = values.get("camera", [""] * len(values["track"]))
    rows = sorted(zip(cameras, values["track"], map(int, values["frame"])))
    gaps = [b[2] - a[2] for a, b in pairwise(rows) if a[:2] == b[:2]]
    return bool(gaps) and float(np.median(gaps)) < 5


def _spelled(tokens: list[_Token], roles: dict[str, int], whole: bool) -> str:
    """The expression from the first token that is asked for to the last; or from the beginning."""
    names = {place: role for role, place in roles.items()}
    first, text = (0, "^") if whole else (min(names), "")
    for place in range(first, max(names) + 1):
        token = tokens[place]
        before = token.before if whole or place > first else _last_word(token.before)
        group = f"(?P<{names[place]}>{token.expression})" if place in names else token.expression
        text += re.escape(before).replace(r"\-", "-") + group
    return text
