"""Words of a command line that mean nothing here: which of its options was probably meant.

Such are words that no option stands before, and the names that other commands have for an option.
"""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

_STRAY = re.compile(r"unrecognized arguments: (?!-)(.+)", re.DOTALL)
_IMAGES = ("images", "pool", "data.pool", "root", "data.root", "target.root")
_WEIGHTS = ("weights", "model.weights", "after")
_TABLES = ("scores", "subset", "data.subset")
_BY_SUFFIX = {
    _WEIGHTS: (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"),
    _TABLES: (".parquet", ".txt"), ("features", "out"): (".npy",), ("config",): (".yaml", ".yml"),
}  # fmt: skip
_OF_TEXT = (*_IMAGES, *_WEIGHTS, *_TABLES, "before", "data", "data.name", "out", "run.output")
"""The options that people give paths and names to, those first that are given most."""
_MOST = 4
_SAME = (
    ("out", "output", "run.output", "json", "folder", "files"),
    ("data", "data.name", "target", "target.name", "sets"),
    (*_IMAGES, "gallery", "path", "paths", "data"),
    _WEIGHTS,
    ("subset", "data.subset"),
    ("sample", "max_images", "num_images"),
    ("skip_broken", "max_bad_fraction", "data.max_bad_fraction"),
    ("k1", "rerank_k1", "clusters.k1"),
)
"""Names that commands have for one thing, those of options and of words without one."""


def same_here(typed: str, actions: Sequence[argparse.Action]) -> str:
    """How a command calls what others call ``--typed``, to end a complaint with; "" if nothing is.

    Args:
        actions: the options and positional arguments of the command.
    """
    options = {name.lstrip("-"): action for action in actions for name in action.option_strings}
    places = {action.dest: action for action in actions if not action.option_strings}
    for names in _SAME:
        if typed in names and (fits := _among(names, [*options, *places])):
            if fits[0] in options:
                return f"; did you mean --{fits[0]}?"
            place = places[fits[0]]
            return f"; {place.metavar or place.dest} stands alone here, without --{typed} before it"
    return ""


def in_words(
    complaint: str, words: Sequence[str], actions: Sequence[argparse.Action]
) -> str | None:
    """What to do with the words that jsonargparse complains of; None where it complains of others.

    Args:
        words: the command line.
        actions: the options and positional arguments of the command.
    """
    found = _STRAY.match(complaint)
    if not found:
        return None
    stray = found[1].partition(" --")[0]
    word = next((word for word in words if f"{stray} ".startswith(f"{word} ")), stray)
    if option := _takes_one(word, words):
        return (
            f"{word}: stands behind {option}, which takes one value: put quotes around a value "
            "with blanks; of several files give their folder"
        )
    known = [name.lstrip("-") for action in actions for name in action.option_strings]
    hint = _hint(word, _meant(word, known))
    places = [action.dest for action in actions if not action.option_strings]
    if taken := [name for name in places if name != "subcommand"]:
        return f"{stray}: too many words: one is for {', one for '.join(taken)}; {hint}"
    return f"{stray}: stands without the name of an option; {hint}"


def _takes_one(word: str, words: Sequence[str]) -> str | None:
    """The option and its value that ``word`` stands behind, as the second of several paths does."""
    last = len(words) - 1 - words[::-1].index(word) if word in words else 0
    option, value = words[max(0, last - 2) : last] if last > 1 else ("", "")
    return f"{option} {value}" if option.removeprefix("--") in _OF_TEXT else None


def _hint(word: str, meant: Sequence[str]) -> str:
    if not meant:
        return "write the name of its option before it, which --help tells"
    others = ", ".join(f"--{name}" for name in meant[1:])
    more = f" (or {others}, …)" if others else ""
    return f"write its name before it: --{meant[0]} {shlex.quote(word)}{more}"


def _meant(word: str, known: Sequence[str]) -> list[str]:
    """The options among the ``known`` that such a word is for, the likely ones first."""
    if word.isdigit():
        return []
    path = Path(word)
    for names, suffixes in _BY_SUFFIX.items():
        if path.suffix.lower() in suffixes and (fits := _among(names, known)):
            return fits[:1]
    if path.is_dir() and (fits := _among(_IMAGES, known)):
        return fits[:1]
    return _among(_OF_TEXT, known)[:_MOST]


def _among(names: Sequence[str], known: Sequence[str]) -> list[str]:
    groups = {name.partition(".")[0] for name in known if "." in name}
    return [name for name in names if name in known and name not in groups]
