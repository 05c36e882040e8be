"""What runs and commands say: on the console, in train.log, and to programs with the library."""

import logging
import os
import re
import subprocess
import sys

import pytest
from accelerate import Accelerator

import launch
from transreid_ssl import UserError, command, logs

TINY = [*launch.TINY, "--views.num_local=0", "--run.checkpoint_every=2"]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (DEBUG|INFO|WARNING|ERROR) +\S")


def pretrain(folder, *arguments, **settings):
    return launch.run(launch.DINO, *TINY, f"--run.output={folder}", *arguments, **settings)


def messages(folder):
    """What is in train.log, without times and levels."""
    return [line[33:].strip() for line in (folder / "train.log").read_text().splitlines()]


@pytest.fixture(autouse=True)
def quiet():
    logs.hide()
    yield
    logs.hide()


def test_the_library_prints_nothing_until_it_is_asked_to(capfd, caplog):
    with caplog.at_level(logging.CRITICAL + 1, "transreid_ssl"):
        for level in (logging.INFO, logging.WARNING):
            logs.say(Accelerator(cpu=True), "to nobody", level)
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.INFO, "transreid_ssl"):
        logs.say(Accelerator(cpu=True), "to whom it concerns")
    assert caplog.messages == ["to whom it concerns"]
    assert (caplog.records[0].name, caplog.records[0].module) == ("transreid_ssl.run", "test_logs")


def test_another_program_sees_nothing_of_warnings():
    code = (
        "import transreid_ssl.logs as logs; logs.RUN.warning('w'); logs.RUN.info('i');"
        "import logging; logging.basicConfig(level='INFO', format='%(name)s %(message)s');"
        "logs.RUN.info('asked')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=launch.environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "transreid_ssl.run asked\n")


def test_a_run_has_its_log_which_is_appended_to(tmp_path):
    run = tmp_path / "run"
    said = pretrain(run)
    first = (run / "train.log").read_text()
    assert all(LINE.match(line) for line in first.splitlines())
    assert messages(run) == said.splitlines()
    # As a kill leaves it.
    (run / "checkpoints" / "step_00000004.pt").unlink()
    (run / "train.log").write_bytes(
        first.encode() + b"2026-11-28T06:00:00+0000 INFO    step 3/4  lo"
    )
    said = pretrain(run)
    now = (run / "train.log").read_text()
    assert now.startswith(first)
    torn, *rest = now.removeprefix(first).splitlines()
    assert torn.endswith("step 3/4  lo")
    assert [line[33:] for line in rest] == said.splitlines()
    assert any("resuming from step 2 of 4" in line for line in rest)
    pretrain(run, "--run.overwrite=true")
    assert "resuming" not in (run / "train.log").read_text()


def test_verbosity_is_of_the_console_alone(tmp_path):
    run = tmp_path / "run"
    quiet = ["--run.verbosity=warning", "--optim.warmup_epochs=1"]  # 2 are all, which is told
    assert pretrain(run, *quiet) == ""
    assert "step 4/4" in messages(run)[-3]
    assert not (run / "report.html").exists()  # tests ask for pages
    said = pretrain(run, "--run.verbosity=debug", "--run.overwrite=true", "--run.page=true")
    assert (run / "report.html").exists()
    assert "checkpoint of step 4 written in" in said
    assert "DEBUG   checkpoint of step 4 written in" in (run / "train.log").read_text()


def test_what_stops_a_run_stands_in_its_log(tmp_path):
    pretrain(tmp_path / "run")
    said = pretrain(
        tmp_path / "run", "--run.overwrite=true", "--model.weights=nowhere.safetensors", code=2
    )
    assert "nowhere" not in (tmp_path / "run" / "train.log").read_text()  # refused before
    said = pretrain(tmp_path / "b", "--optim.lr=1e30", "--optim.warmup_epochs=0", code=2)
    assert messages(tmp_path / "b")[-1] == said.splitlines()[-1]
    assert "ERROR   error: " in (tmp_path / "b" / "train.log").read_text()


def test_a_fault_of_the_program_stands_there_with_its_traceback(tmp_path):
    def faulty():
        logs.write_to(tmp_path)
        raise ZeroDivisionError("nobody's fault")

    with pytest.raises(ZeroDivisionError):
        command.run(faulty)
    text = (tmp_path / "train.log").read_text()
    assert "a fault of the program:\nTraceback" in text
    assert "ZeroDivisionError: nobody's fault\nThis is a fault of transreid_ssl" in text


def test_a_log_that_cannot_be_written(tmp_path, capsys):
    logs.show()
    (tmp_path / "train.log").mkdir()
    with pytest.raises(UserError, match=r"train\.log: cannot be written \(Is a directory\)"):
        logs.write_to(tmp_path)
    (tmp_path / "train.log").rmdir()
    os.symlink("/dev/full", tmp_path / "train.log")
    logs.write_to(tmp_path)
    for text in ("one", "two"):
        logs.RUN.info(text)
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert said.err.count("is not written any further (No space left on device)") == 1


def test_the_main_process_alone_writes(tmp_path):
    run = tmp_path / "run"
    pretrain(run, processes=2)
    lines = messages(run)
    assert "2 processes" in lines[0]
    assert sum(line.startswith("step 4/4") for line in lines) == 1
