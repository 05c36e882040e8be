"""What every command line shares: one-line errors, and parsing through jsonargparse."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from transreid_ssl.errors import UserError


class Parser(ArgumentParser):
    """A jsonargparse parser whose complaints are one line and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, exit_on_error=False, **kwargs)

    def parse(self, arguments: Sequence[str] | None = None) -> Any:
        """Parse and instantiate dataclasses; anything that is wrong becomes a ``UserError``."""
        try:
            return self.instantiate(self.parse_args(arguments))
        except Exception as error:
            raise UserError(_first_sentence(error)) from error


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__


def run(main: Callable[..., int | None], *arguments: Any) -> None:
    """Call ``main`` as the program: a ``UserError`` prints as one line, with exit code 2."""
    try:
        code = main(*arguments)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        code = 141
    sys.exit(code or 0)
