"""One of several processes is killed, or fails: do all end, how soon, and does the run go on?"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.jobs import RECIPES, SETTINGS


def kill_ranks(times: int, seed: int, folder: Path) -> list[dict]:
    """Kill one process of two, or of three, at a random moment; then let the run go on to its end.

    Returns:
        For each time "processes", "rank", "seconds" until the launcher had ended, "left" (processes
        of it that were still there then), and the exit "code" of the same command again.
    """
    found = []
    for number in range(times):
        processes = 2 + number % 2
        rng = np.random.default_rng([seed, 1000 + number])
        output = folder / f"ranks_{number}"
        rank = int(rng.integers(processes))
        seconds, left = _kill_rank(output, processes, rank, rng.uniform(0, 3))
        code = _launch(output, processes).wait(timeout=600)
        found.append(
            {
                "processes": processes, "rank": rank, "seconds": round(seconds, 1), "left": left,
                "code": code,
            }
        )  # fmt: skip
        print(found[-1], flush=True)
    return found


def fail_ranks(jobs: list[str], folder: Path) -> tuple[int, int]:
    """Let one of three processes fail wherever they meet in these jobs; see ``errors.py``.

    Args:
        jobs: by name; of ``all_jobs``.
        folder: inputs and results go into one within it.

    Returns:
        The number of places, and at how many of them all processes raised the error of the one.
    """
    program = ["-m", "benchmarks.faults.errors", str(folder / "errors"), *jobs]
    launched = _start(program, 3, stdout=subprocess.PIPE, text=True)
    said = launched.communicate()[0]
    print(said, end="", flush=True)
    counts = re.fullmatch(r"(\d+) places, (\d+) sound", said.rstrip().rpartition("\n")[2])
    if not counts:
        raise RuntimeError(f"three processes ended with exit code {launched.returncode}")
    return int(counts[1]), int(counts[2])


def _launch(output: Path, processes: int) -> subprocess.Popen:
    settings = [s for s in SETTINGS["dino"] if "num_workers" not in s and "batch_size" not in s]
    program = [
        str(RECIPES / "dino_pretrain.py"), *settings, "--run.num_workers=0", "--run.batch_size=12",
        f"--run.output={output}", "--run.epochs=12",
    ]  # fmt: skip
    return _start(program, processes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _start(program: list[str], processes: int, **streams: Any) -> subprocess.Popen:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    address = ["--master_addr=127.0.0.1", f"--master_port={port}"]
    path = os.pathsep.join([str(RECIPES.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *launcher, *address, *program], **streams,
        env=os.environ
        | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip


def _kill_rank(output: Path, processes: int, rank: int, delay: float) -> tuple[float, int]:
    """Returns the seconds from the kill to the launcher's end, and who is left then."""
    launcher = _launch(output, processes)
    while not (output / "metrics.jsonl").is_file():
        if launcher.poll() is not None:
            raise RuntimeError("the run ended before one of its processes could be killed")
        time.sleep(0.01)
    time.sleep(delay)
    ranks = sorted(_children(launcher.pid))
    begin = time.monotonic()
    if rank < len(ranks):
        os.kill(ranks[rank], signal.SIGKILL)
    launcher.wait(timeout=600)
    seconds = time.monotonic() - begin
    return seconds, sum(Path(f"/proc/{number}").exists() for number in ranks)


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found
