"""Shell completion of ``transreid-ssl``: its commands, trainings, options and their choices.

transreid-ssl completion bash > ~/.transreid-ssl.bash
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transreid_ssl import __main__ as program
from transreid_ssl import command, shipped
from transreid_ssl.errors import UserError
from transreid_ssl.short_help import choices_of

PROGRAM = "transreid-ssl"


@dataclass(frozen=True)
class Completion:
    """Print what a shell has to be told to complete the options of transreid-ssl.

    Example: ``transreid-ssl completion bash > ~/.transreid-ssl.bash``, and in ~/.bashrc the line
    ``source ~/.transreid-ssl.bash``; for zsh it is a file ``_transreid-ssl`` in a folder of
    ``$fpath``. It has this version's options: make it anew after an update.

    Args:
        shell: bash, zsh or tcsh.
    """

    shell: Literal["bash", "zsh", "tcsh"]


class _Caught(Exception):
    """Ends a command line when it would be parsed."""

    def __init__(self, parser: command.Parser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(main: Callable[[Sequence[str]], Any]) -> command.Parser:
    """The parser that a command makes; nothing of what it would do is done."""
    parse = command.Parser.parse

    def catch(self: command.Parser, arguments: Sequence[str] | None = None) -> None:
        raise _Caught(self)

    command.Parser.parse = catch
    try:
        main([])
    except _Caught as caught:
        return caught.parser
    finally:
        command.Parser.parse = parse
    raise AssertionError("a command has parsed nothing")


def everything() -> argparse.ArgumentParser:
    """All commands and trainings as one plain parser."""
    whole = argparse.ArgumentParser(prog=PROGRAM)
    names = whole.add_subparsers()
    for name, (sentence, _) in program.COMMANDS.items():
        if name == "completion":
            continue
        package = f"transreid_ssl.{name}"
        module = importlib.import_module(package)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{package}.__main__")
        _copy(parser_of(module.main), names.add_parser(name, help=sentence))
    kinds = {
        kind: names.add_parser(kind, help=f"{kind} a network").add_subparsers()
        for kind in program.KINDS
    }
    for name, path in shipped.recipes().items():
        method, _, kind = name.rpartition("_")
        if method:
            copy = kinds[kind].add_parser(method, help=shipped.sentence(path))
        else:
            copy = names.add_parser(name, help=shipped.sentence(path))
        _copy(parser_of(shipped.load_recipe(name).main), copy)
    return whole


def _copy(parser: argparse.ArgumentParser, plain: argparse.ArgumentParser) -> None:
    """Give ``plain`` what a jsonargparse parser has: names, helps and choices."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            names = plain.add_subparsers()
            for name, inner in action.choices.items():
                _copy(inner, names.add_parser(name, help=inner.description.partition("\n")[0]))
            continue
        told: dict[str, Any] = {"help": action.help if isinstance(action.help, str) else ""}
        if "--help-all" in action.option_strings:
            told["action"] = "store_true"
        else:
            told["choices"] = list(choices_of(action)) or None
        added = plain.add_argument(*(action.option_strings or [action.dest]), **told)
        if "action" not in told and told["choices"] is None:
            added.complete = shtab.FILE  # of text any may be a file's name


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, and print the script."""
    options = command.options(Completion, "python -m transreid_ssl.completion", arguments)
    try:
        import shtab
    except ImportError as error:
        raise UserError(
            "completion: its package is not installed; run: pip install shtab (or "
            "transreid_ssl[completion])"
        ) from error
    sys.stdout.write(shtab.complete(everything(), shell=options.shell))


if __name__ == "__main__":
    command.run(main)
