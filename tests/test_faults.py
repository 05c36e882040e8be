"""Kills, errors and bad input, as ``python -m benchmarks.faults`` tries them, a few of each."""

import json
import re

import pytest

import launch


def last_line(text):
    """The figures that the benchmark ends with."""
    return json.loads(text.splitlines()[-1])


@pytest.mark.parametrize("job", ["dino", "usl", "cfs score", "embed", "pack", "pack lmdb"])
def test_killed_jobs_end_as_if_nothing_had_happened(job, tmp_path):
    folder = tmp_path / "faults"
    alone = ["--kills=2", "--ranks=0", "--no-inputs", "--no-errors"]
    arguments = [*alone, f"--jobs={job}", f"--folder={folder}"]
    figures = last_line(launch.run("-m", "benchmarks.faults", *arguments))
    assert (figures["ratio"], figures["kills"], figures["lost"]) == (1.0, 2, 0)


def test_every_bad_input_is_one_line_and_changes_nothing(tmp_path):
    text = launch.run(
        "-m", "benchmarks.faults", "--kills=0", "--ranks=0", "--no-errors",
        f"--folder={tmp_path / 'faults'}",
    )  # fmt: skip
    figures = last_line(text)
    assert figures["bad_inputs"] >= 100
    assert figures["wrong"] == 0, text


def test_an_error_at_any_meeting_of_three_processes_ends_all(tmp_path):
    arguments = [str(tmp_path), "usl"]
    said = launch.run("-m", "benchmarks.faults.errors", *arguments, processes=3)
    places, sound = re.search(r"(\d+) places, (\d+) sound", said).groups()
    assert int(places) >= 15
    assert sound == places, said
