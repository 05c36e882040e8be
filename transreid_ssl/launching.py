"""Work on several processes of this machine, by torch's launcher, as Accelerate's has it.

What stops it is said once, and last: launchers themselves end with a traceback of their own. A
recipe cannot keep them from it: when it has ended with a code that is not 0, `accelerate launch`
raises a CalledProcessError (accelerate/commands/launch.py, `simple_launcher`; not with --quiet),
and torch's launcher a ChildFailedError.
"""

import argparse
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence

from transreid_ssl import command, logs
from transreid_ssl.errors import UserError

OPTION = "--processes"
HELP = "Start so many processes of this machine, such as one for each GPU."


class Announced(argparse.Action):
    """``OPTION`` in the help of a training, which ``split`` takes away before that one parses."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(
            option_strings, dest, default=argparse.SUPPRESS, metavar="NUMBER", help=HELP
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        raise UserError(
            f"{OPTION}: give it to python -m transreid_ssl, which starts the processes; a script "
            "alone starts none"
        )


def split(options: Sequence[str]) -> tuple[int | None, list[str]]:
    """The number that ``--processes`` gives, or None, and the other options.

    Raises:
        UserError: it gives no number above 0.
    """
    rest, given = [], None
    words = iter(options)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
            continue
        given = value if equals else next(words, "")
    if given is None:
        return None, rest
    if not given.isdecimal() or int(given) == 0:
        raise UserError(f"{OPTION} {given}: give the number of processes, such as one for each GPU")
    return int(given), rest


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``python -m transreid_ssl`` with these arguments in so many processes; the exit code.

    Raises:
        UserError: there are GPUs, but fewer.
    """
    import torch
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in [*logging.root.manager.loggerDict]:
        if name.startswith("torch.distributed"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if not torch.accelerator.is_available():
        # Else Accelerate takes each process for a training of its own.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif (devices := torch.accelerator.device_count()) < processes:
        raise UserError(f"{OPTION} {processes}: this machine has {devices} GPU(s); give that many")
    address = ["--master_addr=127.0.0.1", f"--master_port={_free_port()}"]
    program = [f"--nproc_per_node={processes}", *address, "-m", "transreid_ssl", *arguments]
    # Else torch's launcher says at length that it sets this to 1; a run shares the cores itself.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as last:
        os.environ[logs.LAST_LINE] = last.name
        code = 0
        try:
            run.run(run.parse_args(program))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = failure.exitcode
            fault = f"error: process {rank} ended with code {code}; what it said stands above"
        except SignalException:
            code, fault = 130, "interrupted"
        finally:
            del os.environ[logs.LAST_LINE]
        lines = dict.fromkeys(last.read().splitlines())
    if any(line.startswith("error:") for line in lines):
        code = 2  # a process that waited for the one that said so may have ended before it
    for line in lines or ([fault] if code else []):
        print(command.as_started(line), file=sys.stderr, flush=True)
    return code if code >= 0 else 1


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
