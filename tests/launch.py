"""Running recipes and commands as a user does, in one process or in several."""

import contextlib
import functools
import gc
import io
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState, GradientState

from transreid_ssl import logs
from transreid_ssl.shipped import load_recipe

ROOT = Path(__file__).parents[1]
DINO = str(ROOT / "recipes" / "dino_pretrain.py")
TINY = [
    "--data.pool=demo:identities=8,images=4,height=32,width=16", "--model.img_size=[32,16]",
    "--views.global_size=[32,16]", "--views.local_size=[16,8]", "--views.num_local=2",
    "--run.batch_size=16", "--run.epochs=2", "--run.log_every=1", "--run.num_workers=0",
    "--run.num_threads=1", "--dino.out_dim=32", "--dino.hidden_dim=32", "--dino.bottleneck_dim=16",
    "--run.precision=no", "--probe.data=null",
]  # fmt: skip
"""A run of ``DINO`` of four steps, which takes a second; what is given after it comes first."""
PATIENCE = 600
"""Seconds that a process of a test may take, on a machine many times slower than most."""


def environment() -> dict[str, str]:
    """CPU only, one thread, no network interface but loopback."""
    return os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        "LOCAL_WORLD_SIZE": str(os.cpu_count() or 1),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }


def torchrun(*arguments: str, processes: int) -> str:
    """Run as torch's own launcher does, to the end, and return what was printed."""
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    address = ["--master_addr=127.0.0.1", f"--master_port={_free_port()}"]
    done = subprocess.run(
        [sys.executable, *launcher, *address, *arguments], env=environment(),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run(*arguments: str, processes: int = 1, cwd: Path = ROOT, code: int = 0) -> str:
    """Run to the end, check the exit code, and return what was printed on both streams.

    A program of one process runs in this one, as ``python`` would start it: nothing but the seconds
    that imports take is saved. Several processes are launched, with the variables of torch's
    launcher.
    """
    if processes == 1:
        found, said = _run_here(*arguments, cwd=cwd)
    else:
        found, said = _run_side_by_side(*arguments, processes=processes, cwd=cwd)
    assert found == code, f"exit code {found}\n{said}"
    return said


def _run_side_by_side(*arguments: str, processes: int, cwd: Path) -> tuple[int, str]:
    """The first exit code that is not 0, and the output of all processes."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        logs = [Path(folder, f"{rank}.txt") for rank in range(processes)]
        started = []
        for rank, log in enumerate(logs):
            variables = meeting | size | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append(start(_run_there, arguments, cwd, log, variables))
        deadline, code = time.monotonic() + PATIENCE, 0
        running = list(started)
        while running and not code and time.monotonic() < deadline:
            wait([process.sentinel for process in running], timeout=1)
            running = [process for process in started if process.exitcode is None]
            code = next((process.exitcode for process in started if process.exitcode), 0)
        for process in running:  # one has failed, or none ever ends
            process.kill()
        for process in started:
            process.join()
        said = "".join(log.read_text() for log in logs)
        return code or bool(running), said


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# A process that has imported everything and computed nothing; new ones are forked from it, which
# takes no time. A room imports what it holds when that is used: so its modules are named.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "launch",
        "transreid_ssl.finetune.mgn",
        "transreid_ssl.finetune.stages",
        "transreid_ssl.pretrain.moby",
        "transreid_ssl.pretrain.mocov3",
        "transreid_ssl.pretrain.run",
        "transreid_ssl.pretrain.upreid",
        "transreid_ssl.training.curves",
        "sklearn.cluster",
        "sklearn.metrics",
    ]
)


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Call a function of a module in a process of its own."""
    process = _SERVER.Process(target=function, args=arguments)
    with mock.patch.dict(os.environ, environment()):  # for the server, which starts with the first
        process.start()
    return process


def runs(number: int) -> bool:
    """Whether a process of this number is at work, neither gone nor dead and not yet collected."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def each(function: Callable[..., None], *arguments: Any, processes: int) -> None:
    """Call ``function(rank, *arguments)`` in so many processes at once, and wait for them."""
    started = [start(function, rank, *arguments) for rank in range(processes)]
    for process in started:
        process.join(PATIENCE)
    assert [process.exitcode for process in started] == [0] * processes


def _run_there(
    arguments: Sequence[str], cwd: Path, log: Path, variables: Mapping[str, str]
) -> None:
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ |= variables
    gc.freeze()  # what the server has imported need not be looked through for garbage
    code, said = _run_here(*arguments, cwd=cwd)
    sys.stdout.write(said)
    sys.exit(code)


def _run_here(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code and output of a script or ``-m module``; nothing of it stays in this process."""
    module = arguments[0] == "-m"
    name, *options = arguments[module:]
    beside = str(cwd if module else Path(cwd, name).parent)  # whose modules it may import
    said = io.StringIO()
    with (
        fresh_process(),
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", [name, *options]),
        mock.patch.object(sys, "path", [beside, *sys.path]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            if module:
                with warnings.catch_warnings():
                    # It has been imported; here it is executed anew, as a program.
                    warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
                    runpy.run_module(name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(name, run_name="__main__")
        except SystemExit as end:
            return end.code or 0, said.getvalue()
    return 0, said.getvalue()


@contextlib.contextmanager
def fresh_process() -> Iterator[None]:
    """Within it, what a new process on a CPU would have; after it, what there was before."""
    threads = torch.get_num_threads()
    _forget_accelerator()
    logs.hide()
    with mock.patch.dict(os.environ, environment()):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            _forget_accelerator()
            logs.hide()


def _forget_accelerator() -> None:
    """Accelerate keeps device and precision for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@functools.cache
def recipe(name: str) -> ModuleType:
    """The recipe ``name``, such as "dino_pretrain", as a module."""
    return load_recipe(str(ROOT / "recipes" / f"{name}.py"))


def kill(*arguments: str, when: Callable[[], bool], cwd: Path = ROOT) -> None:
    """Run in a process of its own, and kill it without warning as soon as ``when`` says so."""
    with tempfile.NamedTemporaryFile() as log:
        process = start(_run_there, arguments, cwd, Path(log.name), {})
        deadline = time.monotonic() + PATIENCE
        while not when():
            assert process.is_alive(), f"ended before it could be killed: {log.read().decode()}"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.join()


def metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """The losses that a run has logged."""
    return [line["loss"] for line in metrics(folder) if "loss" in line]
