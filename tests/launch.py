"""Running recipes and commands as a user does, in one process or in several."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from accelerate.state import AcceleratorState, GradientState

ROOT = Path(__file__).parents[1]
PATIENCE = 600
"""Seconds that a process of a test may take, on a machine many times slower than most."""


def environment() -> dict[str, str]:
    """CPU only, one thread, no network interface but loopback."""
    return os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


def command(*arguments: str, processes: int = 1) -> list[str]:
    """A script or ``-m module`` as a command line; several processes need torch's launcher."""
    if processes == 1:
        return [sys.executable, *arguments]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    address = ["--master_addr=127.0.0.1", f"--master_port={port}"]
    return [sys.executable, *launcher, *address, *arguments]


def run(*arguments: str, processes: int = 1, cwd: Path = ROOT, code: int = 0) -> str:
    """Run to the end, check the exit code, and return what was printed on both streams.

    A program of one process runs in this one, as ``python`` would start it: nothing but the seconds
    that imports take is saved. Several processes are launched.
    """
    if processes == 1:
        found, said = _run_here(*arguments, cwd=cwd)
    else:
        done = subprocess.run(
            command(*arguments, processes=processes), env=environment(), cwd=cwd,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        found, said = done.returncode, f"{done.stdout}\n{done.stderr}"
    assert found == code, f"exit code {found}\n{said}"
    return said


def _run_here(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Exit code and output of a script or ``-m module``; nothing of it stays in this process."""
    module = arguments[0] == "-m"
    name, *options = arguments[module:]
    said = io.StringIO()
    with (
        fresh_process(),
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", [name, *options]),
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
    with mock.patch.dict(os.environ, environment()):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            _forget_accelerator()


def _forget_accelerator() -> None:
    """Accelerate keeps device and precision for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@functools.cache
def recipe(name: str) -> ModuleType:
    """The recipe ``name``, such as "dino_pretrain", as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kill(*arguments: str, when: Callable[[], bool], cwd: Path = ROOT) -> None:
    """Run, and kill without warning as soon as ``when`` says so."""
    process = subprocess.Popen(
        command(*arguments), env=environment(), cwd=cwd,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not when():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()


def metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """The losses that a run has logged."""
    return [line["loss"] for line in metrics(folder) if "loss" in line]
