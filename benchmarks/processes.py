"""Processes that begin at their work at once, as they are forked from one that has imported it all.

Python and its libraries take seconds to start, which a program of many short runs would wait for
again and again. The process that they are forked from has computed nothing: threads and random
numbers of the runs are not copies of used ones.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
# A room imports what it holds when that is used: so its modules are named.
_SERVER.set_forkserver_preload(
    [
        "transreid_ssl.cfs.scoring", "transreid_ssl.cfs.subset",
        "transreid_ssl.data.feature_files", "transreid_ssl.embed", "transreid_ssl.finetune.mgn",
        "transreid_ssl.finetune.stages", "transreid_ssl.pretrain.moby",
        "transreid_ssl.pretrain.mocov3", "transreid_ssl.pretrain.run",
        "transreid_ssl.pretrain.upreid", "transreid_ssl.training.curves", "sklearn.cluster",
        "sklearn.metrics",
    ]
)  # fmt: skip


def warm_up() -> None:
    """Have everything imported before the first process begins."""
    process = _SERVER.Process(target=os.getpid)
    process.start()
    process.join()


def start(log: Path, function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """Call a function of a module in a process of its own, all output going to the end of ``log``.

    It has this process's folder, and the variables of its environment; libraries that read them
    when they are imported have seen those of the first call.
    """
    given = (str(log), dict(os.environ), function, *arguments)
    process = _SERVER.Process(target=_call, args=given)
    process.start()
    return process


def start_program(log: Path, path: Path, arguments: Sequence[str]) -> ForkServerProcess:
    """The same, of a program, as ``python path arguments`` would start it."""
    return start(log, _program, str(path), list(arguments))


def _call(
    log: str, environment: dict[str, str], function: Callable[..., Any], *arguments: Any
) -> None:
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    try:
        function(*arguments)
    except KeyboardInterrupt:  # before the program could answer it
        sys.exit(130)


def _program(path: str, arguments: list[str]) -> None:
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    runpy.run_path(path, run_name="__main__")
