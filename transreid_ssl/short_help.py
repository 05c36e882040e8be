"""What ``--help`` prints: what a command does, an example, and a line for each option.

A screen of it, where ``--help-all`` says everything in full. Each option stands with the value that
will run, as it would be typed; behind it stand as many words of its text as the line has room for.
"""

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Container, Iterable
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ActionConfigFile, ArgumentParser

_LINES = 15
"""Of a description, unless its first paragraph alone is longer."""
_LEFT, _NARROW, _WIDE = 30, 60, 110
"""Columns that an option and its value may take before its text, and a line at least and most."""
_VALUES = ", with their values if nothing else is said; in capitals where there is none"
_PIECES = re.compile(r"[.;:,]? (?=\S)")


def short_help(parser: ArgumentParser, shown: Container[str] | None = None) -> str:
    """The help of a command that has no sub-commands, of a screen.

    Args:
        parser: its parser, with the values that run if nothing else is said as defaults.
        shown: the names of the options that are told; None: all.
    """
    width = columns()
    actions = [action for action in parser._actions if _is_told(action)]
    chosen = [action for action in actions if shown is None or action.dest in shown]
    lefts = [_left(action) for action in chosen]
    column = 2 + max((len(left) for left in lefts if len(left) <= _LEFT), default=0)
    lines = [
        line
        for action, left in zip(chosen, lefts)
        for line in _lines(left, column, told(action, width - column - 2))
    ]
    more = len(actions) - len(chosen)
    rest = f", and {more} more options" if more else ""
    valued = any(action.option_strings and action.default is not None for action in chosen)
    head = f"options{_VALUES * valued}:"
    return "\n".join([
        _usage(parser, chosen), "", *_beginning(parser.description or ""), "", head, *lines, "",
        f"--help-all tells all in full{rest}.", "",
    ])  # fmt: skip


def columns() -> int:
    """The width of a line: the terminal's, if it is not too narrow or too wide to be read."""
    return min(max(shutil.get_terminal_size().columns, _NARROW), _WIDE)


def told(action: argparse.Action, width: int) -> str:
    """What an option is, in a line; words that it takes are put before it, unless it names them."""
    text = shortened(action.help or "", width)
    words = [word for word in choices_of(action) if word not in ("true", "false", "null")]
    if words and not all(re.search(rf"\b{re.escape(word)}\b", text) for word in words):
        text = shortened(f"{', '.join(words)}: {action.help}", width)
    return text


def shortened(text: str, width: int) -> str:
    """As much of a text as ``width`` characters have room for, without its last full stop.

    It is cut at the end of a sentence or, with "…", between clauses or words.
    """
    text = " ".join(text.replace("``", "").split())
    if len(text.removesuffix(".")) <= width:
        return text.removesuffix(".")
    ends = [found.start() for found in _PIECES.finditer(text) if found.start() <= width - 2]
    # Not within brackets, and so late that a line tells something.
    whole = [end for end in ends if text[:end].count("(") == text[:end].count(")")]
    late = [end for end in whole if end > width // 2] or whole[-1:]
    if full := [end for end in late if text[end] == "." and text[end - 1] != "…"]:
        return text[: full[-1]]
    clauses = [end for end in late if text[end] in ";:,"]
    end = max(clauses or late or ends, default=width - 2)
    return f"{text[:end]} …"


def choices_of(action: argparse.Action) -> Iterable[str]:
    """The words that an option takes, where they can be told."""
    yield from map(str, action.choices or ())
    waiting = [getattr(action, "_typehint", None)]
    while waiting:
        kind = waiting.pop(0)
        if kind is bool:
            yield from ("true", "false")
        elif get_origin(kind) is Literal:
            yield from map(str, get_args(kind))
        elif kind is type(None):
            yield "null"
        else:
            waiting += get_args(kind)


def _is_told(action: argparse.Action) -> bool:
    """Not the options that help itself, nor those that are no settings, such as a whole section."""
    if isinstance(action, ActionConfigFile) or action.metavar == "NUMBER":
        return True
    return action.default != argparse.SUPPRESS and action.help != argparse.SUPPRESS


def _left(action: argparse.Action) -> str:
    """An option and its value as it would be typed, or in capitals where it has none."""
    name = action.dest.rpartition(".")[2]
    if not action.option_strings:
        return str(action.metavar or name)
    value = action.default
    if value in (None, [], argparse.SUPPRESS):
        stands_for = action.metavar if isinstance(action.metavar, str) else ""
        value = name.upper() if not stands_for or "{" in stands_for else stands_for
    return f"{action.option_strings[0]} {_typed(value)}"


def _typed(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return shlex.join(value)
    text = isinstance(value, str)
    return shlex.quote(value if text else json.dumps(value, separators=(",", ":"), default=str))


def _lines(left: str, column: int, text: str) -> list[str]:
    """An option in a line, or in two where its value is long."""
    if len(left) <= column - 2:
        return [f"  {left:{column}}{text}"]
    return [f"  {left}", f"  {'':{column}}{text}"]


def _usage(parser: ArgumentParser, actions: Iterable[argparse.Action]) -> str:
    if parser.usage:
        return f"usage: {parser.usage % {'prog': parser.prog}}"
    words = [parser.prog.replace(" [options]", "")]
    many = {"*": "[{0} ...]", "?": "[{0}]", "+": "{0} [{0} ...]"}
    for action in actions:
        if not action.option_strings:
            words.append(many.get(str(action.nargs), "{0}").format(_left(action)))
    return f"usage: {' '.join([*words, '[--OPTION VALUE ...]'])}"


def _beginning(description: str) -> list[str]:
    """The first paragraphs of a description that are no more than a few lines together."""
    first, *others = description.strip().split("\n\n")
    lines = first.splitlines()
    for paragraph in others:
        more = ["", *paragraph.splitlines()]
        if len(lines) + len(more) > _LINES:
            break
        lines += more
    return lines
