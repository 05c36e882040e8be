"""What is wrong with a command line, in words that name the option and what it takes.

jsonargparse speaks of parser keys, types and unions, which are Python's.
"""

import argparse
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from transreid_ssl import stray_words
from transreid_ssl.short_help import choices_of
from transreid_ssl.words import nearest

_KEY = re.compile(r'Parser key "([\w.]+)":')
_ALONE = re.compile(r"argument (--[\w.-]+): expected one argument")
_MISSING = re.compile(r"arguments are required: ([\w., ]+)")
_ACTION = re.compile(r"argument subcommand: invalid choice: '(.+?)' \(choose from (.+)\)")
FOREIGN = re.compile(r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'")
"""A setting of a file that there is none of: its group, if it has one, and its name."""
_NO_ACTION = 'expected "subcommand"'
_VALUE = re.compile(r"(?:Got|Given) value: (.*)|base 10: '(.*)'|Unable to load config '(.*)'")
_BELOW = re.compile(r"NestedArg\(key='([\w.]+)'")
_NUMBERS = {
    "PositiveInt": "a whole number above 0",
    "NonNegativeInt": "a whole number of 0 or more",
    "OpenUnitInterval": "a number above 0 and below 1",
}  # fmt: skip
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_COUNTED = {"a whole number": "whole numbers", "a number": "numbers", "text": "words"}


def in_words(parser: argparse.ArgumentParser, complaint: str, words: Sequence[str]) -> str | None:
    """A complaint of jsonargparse said again; None where it can be left as it is.

    Args:
        parser: that complained.
        complaint: what it said.
        words: the command line.
    """
    actions = {action.dest: action for action in all_actions(parser, words)}
    if found := _KEY.search(complaint):
        return _of_value(found[1], complaint, words, actions)
    if found := _ALONE.search(complaint):
        action = next((a for a in actions.values() if found[1] in a.option_strings), None)
        return f"{found[1]}: give {_takes_of(action).removesuffix(' or null')} after it"
    if found := _MISSING.search(complaint):
        names = [name.rpartition(".")[2] for name in re.split(r",\s*", found[1].strip())]
        return f"the following words are required: {', '.join(names)}; --help tells what they are"
    if found := stray_words.in_words(complaint, words, list(actions.values())):
        return found
    if found := FOREIGN.search(complaint):
        name = ".".join(filter(None, found.groups()))
        return f"{name}: there is no such setting here; correct it, or take the file for its method"
    if found := _ACTION.search(complaint):
        known = re.findall(r"[\w-]+", found[2])
        return f"{found[1]}: give one of {', '.join(known)}"
    if _NO_ACTION in complaint:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                return f"give what to do: {_either(list(action.choices))}"
    return None


def all_actions(parser: argparse.ArgumentParser, words: Sequence[str]) -> Iterator[argparse.Action]:
    """The options of a parser, and those of the sub-command among ``words``."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for name in [word for word in words if word in action.choices][:1]:
                yield from all_actions(action.choices[name], words)


def _of_value(
    name: str, complaint: str, words: Sequence[str], actions: dict[str, argparse.Action]
) -> str | None:
    """What is wrong with the value of the option or positional argument ``name``."""
    action = actions.get(name)
    if action is None:
        return None
    typed = _typed(name, words)
    said = _VALUE.search(complaint)
    value = typed if typed is not None or said is None else next(filter(None, said.groups()), "")
    if below := _BELOW.match(value or ""):  # of an option that has nothing below it here
        return f"unrecognized arguments: --{name}.{below[1]}"
    shown = spelled_name(action) + (f" {value}" if value is not None else "")
    inside = [dest for dest in actions if dest.startswith(f"{name}.")]
    if getattr(action, "_typehint", None) is None and inside:
        return f"{shown}: give its settings by their names, such as --{inside[0]}"
    return f"{shown}: give {_takes_of(action)}" + nearest(value or "", choices_of(action))


def spelled_name(action: argparse.Action) -> str:
    """An option with its dashes, a positional argument without."""
    return action.option_strings[-1] if action.option_strings else action.dest


def _typed(name: str, words: Sequence[str]) -> str | None:
    """What was given for an option on the command line, the last of several; None if nothing."""
    found = None
    for place, word in enumerate(words):
        if word == f"--{name}" and place + 1 < len(words):
            found = words[place + 1]
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def _takes_of(action: argparse.Action | None) -> str:
    hint = getattr(action, "_typehint", None)
    return "a value" if hint is None else takes(hint)


def takes(hint: Any) -> str:
    """What an option of this type takes, such as "a whole number or null"."""
    return _either(list(dict.fromkeys(_choices(hint))))


def _choices(hint: Any) -> Iterator[str]:
    """The kinds of value, or the values, that a type allows."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is type(None):
        yield "null"
    elif hint is bool:
        yield from ("true", "false")
    elif origin in (Union, types.UnionType):
        for part in sorted(inside, key=lambda part: part is type(None)):
            yield from _choices(part)
    elif origin is Literal:
        yield from map(str, inside)
    elif origin is tuple and inside[-1:] == (...,):
        yield f"{_several(inside[0])} as [A, …]"
    elif origin is tuple:
        yield f"{len(inside)} {_several(inside[0])} as [{', '.join('ABCDEFG'[: len(inside)])}]"
    else:
        yield _NUMBERS.get(getattr(hint, "__name__", "")) or _PLAIN.get(hint, "a value")


def _several(hint: Any) -> str:
    return _COUNTED.get(takes(hint), "values")


def _either(words: Sequence[str]) -> str:
    """Words with commas and "or" between them; of three or more, one is meant."""
    head, last = words[:-1], words[-1]
    return f"{', '.join(head)} or {last}" if head else last


def named_by_option(name: str, value: Any, values: Mapping[str, Any]) -> str | None:
    """The option that gave a class of settings a value; None where several may have.

    Args:
        name: of the field.
        value: that it has.
        values: of all options, by their dotted names.
    """
    known = [
        option for option, given in values.items()
        if option.rpartition(".")[2] == name and _plain(given) == _plain(value)
    ]  # fmt: skip
    return known[0] if len(known) == 1 else None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
