"""The launch files, with programs that note what they are told in the place of Slurm's."""

import os
import shlex
import signal
import subprocess
import time

import pytest
from torch.distributed.run import get_args_parser

import launch

FOLDER = launch.ROOT / "recipes" / "launch"
RUN = ["recipes/dino_pretrain.py", "--data.pool", "/data/two words"]
STANDING_IN = {
    "torchrun": """trap 'kill $!; echo checkpoint > written; exit 1' TERM
        printf '%q ' "$@" > told.part && mv told.part told
        if [ -n "${WAITS:-}" ]; then sleep 60 & wait; fi
    """,
    "srun": """shift && exec "$@" """,
    "scontrol": """if [ "$1" = show ]; then echo first; echo second; else echo "$@" > again; fi""",
}


@pytest.fixture
def begin(tmp_path):
    """Starts a launch file in the test's folder, as on two nodes of eight GPUs."""
    for name, program in STANDING_IN.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{program}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8",
             "SLURM_JOB_ID": "12345"}  # fmt: skip
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))

    def start(name, **variables):
        variables = os.environ | slurm | {"PATH": path} | variables
        return subprocess.Popen([FOLDER / name, *RUN], env=variables, cwd=tmp_path)

    return start


def understood(folder):
    """What torch's launcher makes of what it was told."""
    words = shlex.split((folder / "told").read_text())
    options = get_args_parser().parse_args(words)
    assert [options.training_script, *options.training_script_args] == RUN
    return options


@pytest.mark.parametrize(("gpus", "expected"), [({}, "gpu"), ({"GPUS": "2"}, "2")])
def test_one_node(begin, tmp_path, gpus, expected):
    assert begin("torchrun.sh", **gpus).wait(60) == 0
    options = understood(tmp_path)
    assert (options.standalone, options.nproc_per_node) == (True, expected)


def test_many_nodes(begin, tmp_path):
    assert begin("slurm.sh").wait(60) == 0
    options = understood(tmp_path)
    assert (options.nnodes, options.nproc_per_node, options.rdzv_id) == ("2", "8", "12345")
    assert (options.rdzv_backend, options.rdzv_endpoint) == ("c10d", "first:22345")
    assert not (tmp_path / "again").exists()


def test_a_job_that_is_stopped_writes_a_checkpoint_and_goes_back_to_the_queue(begin, tmp_path):
    job = begin("slurm.sh", WAITS="yes")
    deadline = time.monotonic() + 60
    while not (tmp_path / "told").exists():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60)
    assert (tmp_path / "written").exists()
    assert (tmp_path / "again").read_text() == "requeue 12345\n"
