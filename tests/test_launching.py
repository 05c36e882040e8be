"""What `--processes` starts on several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed.run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import launch
from transreid_ssl import UserError, __main__, __version__, launching, logs
from transreid_ssl.cfs import __main__ as cfs
from transreid_ssl.launching import split

TINY = [
    *launch.TINY, "--views.num_local=0", "--run.epochs=1", "--optim.warmup_epochs=0",
    "--run.output=run",
]  # fmt: skip


def pretrain(folder, *options):
    variables = launch.environment()
    del variables["ACCELERATE_USE_CPU"]  # is found out
    return subprocess.run(
        [sys.executable, "-m", "transreid_ssl", "pretrain", "dino", *TINY, *options],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=launch.PATIENCE,
    )  # fmt: skip


def test_two_processes_train_and_what_stops_them_is_said_once_and_last(tmp_path):
    done = pretrain(tmp_path, "--processes", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "; 2 processes on cpu" in done.stdout
    assert (tmp_path / "run" / "backbone.safetensors").is_file()
    done = pretrain(tmp_path, "--processes=2", "--run.seed=3")
    assert done.returncode == 2
    lines = (done.stdout + done.stderr).splitlines()
    assert lines[-1].startswith("error: run: belongs to a run with other settings: run.seed")
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


def test_what_was_said_tells_the_exit_code_whoever_ended_first(monkeypatch, capfd):
    """The neighbour of a process that refuses fails too, as nobody answers it any more."""
    failure = ProcessFailure(1, 0, 1, "none")
    for said, code in (("error: no such folder", 2), ("", 1)):

        def fail(_, said=said):
            Path(os.environ[logs.LAST_LINE]).write_text(said)
            raise ChildFailedError("name", {1: failure})

        monkeypatch.setattr(torch.distributed.run, "run", fail)
        assert launching.launch(2, ["pretrain", "dino"]) == code
        fault = "error: process 1 ended with code 1; what it said stands above"
        assert capfd.readouterr().err.splitlines()[-1] == (said or fault)


def test_accelerate_launch_of_one_process_ends_with_our_line_if_it_is_to_be_quiet(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet",
         "--num_processes=1", launch.ROOT / "recipes/dino_pretrain.py", "--run.epoch=2"],
        cwd=tmp_path, env=launch.environment(), capture_output=True, text=True,
        timeout=launch.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1  # Accelerate's, for any failure
    last = done.stderr.splitlines()[-1]
    assert last.endswith("unrecognized arguments: --run.epoch=2; did you mean --run.epochs?")


def test_a_script_alone_starts_no_processes(tmp_path):
    said = launch.run(
        str(launch.ROOT / "recipes/dino_pretrain.py"), "--processes=2", cwd=tmp_path, code=2
    )
    assert "--processes: give it to python -m transreid_ssl" in said
    assert "--processes NUMBER" in launch.run("-m", "transreid_ssl", "pretrain", "dino", "--help")


def test_the_version_is_told():
    assert launch.run("-m", "transreid_ssl", "--version") == f"transreid_ssl {__version__}\n"


def test_help_may_stand_first():
    for words in ([], ["verify"]):
        told = launch.run("-m", "transreid_ssl", *words, "--help")
        assert launch.run("-m", "transreid_ssl", "help", *words) == told
        assert len(told.splitlines()) > 10


def test_scoring_takes_processes(monkeypatch):
    """What they are started with is the same command, without the option."""
    monkeypatch.setattr(launching, "launch", lambda *given: given)
    given = ["score", "--out=a b.parquet", "--sample=30", "--overwrite=true"]
    count, words = cfs.main([*given, "--processes=2"])
    assert (count, words[0]) == (2, "cfs")
    monkeypatch.setattr(cfs, "run_score", lambda options: options)
    assert cfs.main(words[1:]) == cfs.main(given)


@pytest.mark.parametrize("training", [["pretrain", "dino"], ["distill"]])
def test_every_training_takes_processes(training, monkeypatch):
    monkeypatch.setattr(launching, "launch", lambda *given: given)
    monkeypatch.setattr(sys, "argv", ["", *training, "--processes", "2", "--run.epochs", "3"])
    assert __main__.main() == (2, [*training, "--run.epochs", "3"])


@pytest.mark.parametrize("given", ["0", "-1", "two", ""])
def test_the_number_of_processes(given):
    for options in (["--processes", given], [f"--processes={given}"]):
        with pytest.raises(UserError, match=f"--processes {given}: give the number"):
            split(options)
    assert split(["--processes", "2", "--run.epochs", "3"]) == (2, ["--run.epochs", "3"])
    assert split(["--run.epochs", "3"]) == (None, ["--run.epochs", "3"])
