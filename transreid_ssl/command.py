"""What every command line shares: parsing through jsonargparse, and one-line errors.

A line is parsed before anything slow is imported (torch and timm take ten seconds), so that
``--help`` and the refusal of a misspelt option do not wait for it. Three habits of all commands and
recipes see to that, and tests/test_package.py that they are kept:

- Settings stand in modules that import nothing slow, such as ``pretrain/settings.py``.
- All else is reached through its room, ``retrieval.evaluate``: a room's ``__init__`` imports what
  it holds when that is first used (lazy_loader). What a room does not hold, torch, and ``models``,
  which makes its networks known to timm at once, are imported by the functions that use them.
- Their names stand in quotes in annotations, as jsonargparse, to read postponed ones, would import
  what is there for type checkers alone.
"""

import argparse
import dataclasses
import glob
import inspect
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import (
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)

from transreid_ssl import complaints, logs, stray_words
from transreid_ssl.errors import OutOfRange, UserError
from transreid_ssl.short_help import short_help
from transreid_ssl.words import nearest

Settings = TypeVar("Settings")

# Settings that say what a field is below it have words in --help, as those with "Args:" do.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Descriptions keep their lines; words of options have no markup, as descriptions have none."""

    def _expand_help(self, action: argparse.Action) -> str:
        return as_started(super()._expand_help(action).replace("``", ""))


class _HelpAll(argparse.Action):
    """The option that prints all that there is to say, where ``--help`` prints a screen."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS,
            help="Show every option in full, and exit.",
        )  # fmt: skip

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser._print_message(parser.format_help(), sys.stdout)
        parser.exit()


class Parser(ArgumentParser):
    """A jsonargparse parser whose complaints are one line and exit code 2.

    An option's name is written out: the beginning of one is an error, as a slip of the keyboard is.
    ``--help`` prints a screen, of which ``show_help_of`` may choose the options.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            exit_on_error=False, formatter_class=_Help, allow_abbrev=False, **settings
        )  # fmt: skip
        self.add_argument("--help-all", action=_HelpAll)
        self._shown: Container[str] | None = None

    def print_help(self, file: Any = None) -> None:
        """Print what ``--help`` does; of a command with sub-commands all that there is to say."""
        if any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            text = self.format_help()
        else:
            text = as_started(short_help(self, self._shown))
        self._print_message(text, file or sys.stdout)

    def parse(self, arguments: Sequence[str] | None = None) -> Namespace:
        """Parse ``arguments`` (by default the program's) and make the dataclasses among them.

        Raises:
            UserError: an option, value or settings file that is not understood, or what a dataclass
                refuses. Anything else that one raises is a fault of the program and passes through.
        """
        try:
            found = self.parse_args(arguments)
        except (argparse.ArgumentError, UnicodeDecodeError) as error:
            words = sys.argv[1:] if arguments is None else arguments
            said = complaints.in_words(self, str(error), words)
            hint = self._nearest_option(f"{said or ''}\n{error}", words)
            raise UserError((said or _first_sentence(error)) + hint) from error
        logs.show_any()
        for name, default in self.get_defaults().items(branches=True):
            # jsonargparse itself lets a settings file say "run:" with nothing under it.
            if isinstance(default, Namespace) and not isinstance(found.get(name), Namespace):
                raise UserError(f"{name} is {found.get(name)}: give settings under it, or leave it")
        try:
            return self.instantiate(found)
        except OutOfRange as error:
            name = complaints.named_by_option(error.name, error.value, dict(found.items()))
            if name is None:
                raise
            raise UserError(f"--{name} {error.value}: give {error.allowed}") from error

    def show_help_of(self, files: Sequence[str], shown: Container[str]) -> None:
        """Let the help tell the values that settings files give, and ``--help`` those ``shown``.

        Raises:
            UserError: a settings file that is not understood.
        """
        self.default_config_files = [glob.escape(file) for file in files]
        try:
            values = dict(self.get_defaults().items())
        except (argparse.ArgumentError, TypeError) as error:  # TypeError: of a value
            said = complaints.in_words(self, str(error), ())
            raise UserError(said or _first_sentence(error)) from error
        self.default_config_files = []  # of which the help would speak at length
        known = {a.dest for a in self._actions if not isinstance(a, ActionConfigFile)}
        self.set_defaults({name: value for name, value in values.items() if name in known})
        self._shown = shown

    def _nearest_option(self, complaint: str, words: Sequence[str]) -> str:
        """The option or action that may have been meant by what ``complaint`` calls unknown.

        Of several sub-commands, that of the one among ``words``.
        """
        typed = re.search(r"unrecognized arguments: --([\w.-]+)", complaint)
        read = complaints.FOREIGN.search(complaint)
        if action := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", complaint):
            return nearest(action[1], re.findall(r"[\w-]+", action[2]))
        found = typed or read
        word = ".".join(filter(None, found.groups())) if found else ""
        actions = list(complaints.all_actions(self, words))
        if typed and (same := stray_words.same_here(word, actions)):
            return same
        names = [name.lstrip("-") for action in actions for name in action.option_strings]
        return nearest(word, names, "--" if typed else "")


def as_started(text: str) -> str:
    """A text about commands, which are called as the user has called this one.

    ``python -m transreid_ssl.evaluate`` works wherever the package is, so texts are written with
    it; to somebody who has typed ``transreid-ssl`` it reads ``transreid-ssl evaluate``.
    """
    if any(Path(word).stem == "transreid-ssl" for word in sys.orig_argv[:2]):
        text = text.replace("python -m transreid_ssl.", "transreid-ssl ")
        text = text.replace("python -m transreid_ssl", "transreid-ssl")
    return text


def spelled(given: Mapping[str, str | None]) -> str:
    """Options and their values as they are typed in a shell; those without a value are left out."""
    return "".join(f" {key} {shlex.quote(value)}" for key, value in given.items() if value)


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


def options(kind: type[Settings], prog: str, arguments: Sequence[str] | None = None) -> Settings:
    """The settings ``kind``, a frozen dataclass, from the command line of the program ``prog``.

    A field without a default is a positional argument. A field with a ``default_factory`` and
    ``nargs`` in its metadata takes several words, and ``add_argument`` is told the metadata; one of
    ``positional`` is positional as well. The docstring is the help.

    Raises:
        UserError: see ``Parser.parse``.
    """
    parser = _parser(kind, prog=as_started(prog))
    return _made(kind, parser.parse(arguments))


def positional(metavar: str, help: str, nargs: str = "*", default: Any = ()) -> Any:
    """A field of settings for ``options``: words without the name of an option before them.

    Args:
        metavar: what stands for them in the help.
        nargs: "*" for any number, which makes a list, or "?" for one at most.
        default: a word, or words that a new list is made of.
    """
    made = (lambda: list(default)) if nargs == "*" else (lambda: default)
    told = {"positional": True, "nargs": nargs, "metavar": metavar, "help": help}
    return dataclasses.field(default_factory=made, metadata=told)


def subcommands(
    prog: str,
    description: str | None,
    actions: Mapping[str, tuple[type, Callable[[Any], int | None]]],
    arguments: Sequence[str] | None = None,
) -> int | None:
    """Parse the command line of a program with sub-commands, and run the one that it names.

    Args:
        prog: how the program is started.
        description: shown above the list of sub-commands.
        actions: by the name of each its settings, as ``options`` takes them, and what it does.

    Returns:
        What the sub-command returned: the exit code.
    """
    parser = Parser(prog=as_started(prog), description=as_started(description or ""))
    choices = parser.add_subcommands(required=True)
    for name, (kind, _) in actions.items():
        choices.add_subcommand(name, _parser(kind), help=_summary(kind).partition("\n")[0])
    found = parser.parse(arguments)
    kind, action = actions[found.subcommand]
    return action(_made(kind, found[found.subcommand]))


def _made(kind: type[Settings], found: Namespace) -> Settings:
    """The settings of a command; what they refuse is told by the option that gave it."""
    try:
        return kind(**vars(found))
    except OutOfRange as error:
        raise UserError(f"--{error.name} {error.value}: give {error.allowed}") from error


def _parser(kind: type, **settings: Any) -> Parser:
    parser = Parser(description=_summary(kind), **settings)
    several = {field.name: field for field in dataclasses.fields(kind) if "nargs" in field.metadata}
    for name, field in several.items():
        told = dict(field.metadata)
        flag = name if told.pop("positional", False) else f"--{name}"
        parser.add_argument(flag, default=field.default_factory(), **told)
    parser.add_class_arguments(kind, skip=set(several), as_positional=True)
    return parser


def _summary(kind: type) -> str:
    """A docstring without its arguments, which --help lists anyway, and without its markup."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\nArgs:")[0].replace("``", "")
    return as_started(text)


def run(main: Callable[..., int | None], *arguments: Any, resumes: bool = False) -> None:
    """Call ``main`` as the program: a ``UserError`` prints as one line, with exit code 2.

    Any other exception is a fault of the program, and keeps its traceback. With the environment
    variable TRANSREID_SSL_DEBUG=1 a ``UserError`` shows its own, too.

    Args:
        resumes: The same command again goes on where an interrupt stopped it.
    """
    try:
        code = main(*arguments)
    except UserError as error:
        if os.environ.get("TRANSREID_SSL_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        logs.show_any()
        logs.COMMAND.error(as_started(f"error: {' '.join(str(error).split())}"))
        code = 2
    except KeyboardInterrupt:
        logs.show_any()
        anew = any(word.startswith("--run.overwrite") for word in sys.argv[1:])
        go_on = _GO_ON.format(", without --run.overwrite," * anew)
        logs.COMMAND.error("interrupted" + go_on * resumes)
        code = 130
    except BrokenPipeError:
        code = 141
    except Exception as error:
        if _OUR_FAULT not in getattr(error, "__notes__", ()):  # of a command within a command
            error.add_note(_OUR_FAULT)
        logs.write_fault(error)
        raise
    sys.exit(code or 0)


_GO_ON = ": run the same command again{} to go on"
_OUR_FAULT = "This is a fault of transreid_ssl: please report it with these lines and the command."
