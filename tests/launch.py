"""Running recipes and commands as a user does: as processes, one or several."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def recipe(name: str) -> ModuleType:
    """A recipe as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    """Run to the end, check the exit code, and return what was printed on both streams."""
    done = subprocess.run(
        command(*arguments, processes=processes),
        env=environment(), cwd=cwd, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def kill(*arguments: str, when: Callable[[], bool], cwd: Path = ROOT) -> None:
    """Run, and kill without warning as soon as ``when`` says so."""
    process = subprocess.Popen(
        command(*arguments), env=environment(), cwd=cwd,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
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
