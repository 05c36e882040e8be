"""What runs and commands say: Python's logging, in one tree of loggers named ``transreid_ssl``.

The library makes records and no more, so that it prints nothing in other programs until they ask
for it, as with ``logging.basicConfig(level="INFO")``. Recipes and command lines show them on the
console; a run writes them to ``train.log`` too.
"""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from transreid_ssl.errors import UserError

if TYPE_CHECKING:
    import accelerate

TREE = logging.getLogger("transreid_ssl")
RUN = logging.getLogger("transreid_ssl.run")
"""What trainings and other long work on several processes tell."""
COMMAND = logging.getLogger("transreid_ssl.command")
"""What stops a command: errors and interrupts."""

LAST_LINE = "TRANSREID_SSL_LAST_LINE"
"""The environment variable with the file that processes leave such messages in, where what has
launched them shows them when all have ended."""

FILE = "train.log"
_LINE = "%(asctime)s %(levelname)-7s %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S%z"


class _Console(logging.Handler):
    """Bare messages on stdout, those from warnings on upwards on stderr, above any bar."""

    def emit(self, record: logging.LogRecord) -> None:
        last = os.environ.get(LAST_LINE)
        if last and record.name == COMMAND.name:
            with open(last, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{record.getMessage()}\n")
            return
        # Looked up each time: a program may have redirected them meanwhile.
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        bars = sys.modules.get("tqdm")
        if bars is None:
            print(record.getMessage(), file=stream, flush=True)
        else:
            with bars.tqdm.external_write_mode(file=stream):
                print(record.getMessage(), file=stream, flush=True)


class _File(logging.FileHandler):
    """A log that is appended to; where it can no longer be written, the run goes on without it."""

    def __init__(self, path: Path, level: int) -> None:
        torn = _ends_in_mid_line(path)
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setLevel(level)
        self.setFormatter(logging.Formatter(_LINE, _TIME))
        if torn:  # by a kill
            self.stream.write("\n")

    def handleError(self, record: logging.LogRecord) -> None:
        reason = getattr(sys.exception(), "strerror", None) or sys.exception()
        TREE.removeHandler(self)
        RUN.warning(f"warning: {self.baseFilename}: is not written any further ({reason})")


_console: _Console | None = None
_file: _File | None = None


def say(accelerator: "accelerate.Accelerator", text: object, level: int = logging.INFO) -> None:
    """Log on the main process, where all processes have the same to say."""
    if accelerator.is_main_process:
        RUN.log(level, str(text), stacklevel=2)


def show(level: str = "info") -> None:
    """Show on the console what is logged from ``level`` on: debug, info, warning or error."""
    global _console
    if _console is None:
        _console = _Console()
        TREE.addHandler(_console)
    _console.setLevel(level.upper())
    _let_through()


def show_any() -> None:
    """Show on the console what is logged, at the level that was chosen before, if one was."""
    if _console is None:
        show()


def is_shown(level: int) -> bool:
    """Whether the console shows what is logged at ``level``."""
    return _console is not None and _console.level <= level


def write_to(folder: Path) -> None:
    """Append what is logged to ``folder/train.log`` from here on, instead of to another one.

    It has what the console shows, and progress even where the console does not show that.

    Raises:
        UserError: it cannot be written.
    """
    global _file
    close()
    shown = logging.INFO if _console is None else _console.level
    try:
        _file = _File(folder / FILE, min(shown, logging.INFO))
    except OSError as error:
        raise UserError(
            f"{folder / FILE}: cannot be written ({error.strerror}); free some space, or "
            "choose another --run.output"
        ) from error
    TREE.addHandler(_file)
    _let_through()


def write_fault(error: BaseException) -> None:
    """Write a fault of the program with its traceback to the log file, if there is one."""
    if _file is not None:
        place = type(error), error, error.__traceback__
        record = COMMAND.makeRecord(
            COMMAND.name, logging.CRITICAL, "", 0, "a fault of the program:", (), place
        )
        _file.handle(record)


def close() -> None:
    """Close the log file, if there is one."""
    global _file
    if _file is not None:
        TREE.removeHandler(_file)
        with contextlib.suppress(OSError):  # of what it could not write
            _file.close()
        _file = None
    _let_through()


def hide() -> None:
    """Show and write nothing any more, as before the first command."""
    global _console
    close()
    if _console is not None:
        TREE.removeHandler(_console)
        _console = None
    _let_through()


def _let_through() -> None:
    """Records that none of our handlers wants are not made; without any the level is others'."""
    levels = [handler.level for handler in (_console, _file) if handler is not None]
    TREE.setLevel(min(levels, default=logging.NOTSET))


def _ends_in_mid_line(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-1, 2)
            return file.read(1) != b"\n"
    except OSError:  # none yet, or nothing in it
        return False
