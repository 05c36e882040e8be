"""The run folder: whose it is, what survives a kill and a full disk."""

import pickle
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch

from launch import environment
from transreid_ssl import UserError
from transreid_ssl.training import PoolSettings, ProbeSettings, RunFolder, RunSettings
from transreid_ssl.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    newest_sound,
    save_checkpoint,
)


@dataclass(frozen=True)
class Config:
    """Settings of a test."""

    run: RunSettings = field(default_factory=RunSettings)
    width: int = 3


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim(Config())
    return folder


def test_the_same_settings_come_back_to_their_folder(run):
    run.claim(Config())
    run.claim(Config(run=RunSettings(num_workers=0, keep_checkpoints=9)))


def test_a_start_that_failed_before_its_first_step_leaves_the_folder_free(run):
    run.claim(Config(width=4))
    assert "width: 4" in (run.path / "config.yaml").read_text()


def test_other_settings_are_refused_by_name(run):
    run.log(1, {"loss": 2.0})
    with pytest.raises(UserError, match=r"width \(3 there, 4 now\)"):
        run.claim(Config(width=4))
    with pytest.raises(UserError, match=r"run\.epochs"):
        run.claim(Config(run=RunSettings(epochs=1)))


@dataclass(frozen=True)
class Newer:
    """Settings of a later version: one more, one more in a section, and a further section."""

    run: RunSettings = field(default_factory=lambda: RunSettings(seed=5))
    width: int = 3
    depth: int = 2
    data: PoolSettings = field(default_factory=PoolSettings)


def test_a_run_of_an_older_version_goes_on_if_what_is_new_has_its_default(run):
    text = (run.path / "config.yaml").read_text()
    assert "  seed: 0\n" in text
    (run.path / "config.yaml").write_text(text.replace("  seed: 0\n", ""))
    run.log(1, {"loss": 2.0})
    run.claim(Newer())  # the default of the section, not of its class
    for changed, said in (
        (Newer(depth=4), r"settings: depth \(2 there, 4 now\); choose"),
        (Newer(run=RunSettings()), r"settings: run\.seed \(5 there, 0 now\); choose"),
        (
            Newer(data=PoolSettings(statistics="half")),
            r"settings: data\.statistics \(imagenet there",
        ),
        (Newer(width=4), r"width \(3 there, 4 now\)"),
    ):
        with pytest.raises(UserError, match=said):
            run.claim(changed)


@dataclass(frozen=True)
class Anywhere:
    """Settings that a run may be begun again with, and one that it may not."""

    run: RunSettings = field(default_factory=RunSettings)
    data: PoolSettings = field(default_factory=PoolSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)


def test_the_place_of_a_run_and_its_images_and_its_probe_may_change(run):
    run.claim(Anywhere())
    run.log(1, {"loss": 2.0})
    moved = Anywhere(
        run=RunSettings(output="elsewhere", extend_to=200),
        data=PoolSettings(pool="/scratch/crops"), probe=ProbeSettings(batch_size=3, every=7),
    )  # fmt: skip
    run.claim(moved)
    with pytest.raises(UserError, match=r"data\.statistics"):
        run.claim(Anywhere(data=PoolSettings(statistics="half")))


def test_overwrite_removes_what_runs_have_written_and_nothing_else(run):
    run.log(1, {"loss": 2.0})
    run.save(1, {}, keep=1)
    stage = RunFolder(run.path / "source")
    stage.claim(Config())
    stage.log(1, {"loss": 2.0})
    mine = [run.path / "notes.txt", run.path / "figures" / "a.png", run.path / "source" / "my.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("years of work")
    run.claim(Config(width=4), overwrite=True)
    assert run.read_metrics() == stage.read_metrics() == []
    assert not run.checkpoints.exists()
    assert all(path.read_text() == "years of work" for path in mine)
    run.claim(Config(width=4))


def test_overwrite_leaves_a_folder_alone_that_only_holds_a_config(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1  # MY NOTES")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"config\.yaml, which no run has written"):
            RunFolder(tmp_path).claim(Config(), overwrite)
    assert (tmp_path / "config.yaml").read_text() == "a: 1  # MY NOTES"


CLAIM = """
import sys, time
from transreid_ssl import UserError
from transreid_ssl.training import RunFolder, RunSettings
try:
    RunFolder(sys.argv[1]).claim(RunSettings(), overwrite=True)
except UserError as error:
    sys.exit(str(error))
print("claimed", flush=True)
time.sleep(600)
"""


def test_a_folder_that_somebody_trains_in_is_refused_until_his_process_has_ended(tmp_path):
    command = [sys.executable, "-c", CLAIM, str(tmp_path / "run")]
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "claimed\n"
        (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
        with pytest.raises(UserError, match=rf"process {first.pid} on .* trains in it"):
            RunFolder(tmp_path / "run").claim(RunSettings(), overwrite=True)
        assert (tmp_path / "run" / "metrics.jsonl").exists()
    finally:
        first.kill()
        first.communicate()
    RunFolder(tmp_path / "run").claim(RunSettings())


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not the folder of a run"):
            RunFolder(tmp_path).claim(Config(), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def state(step, **more):
    return {
        "data_key": "",
        "objective": {},
        "optimizer": {},
        "scaler": {},
        "bad_images": [],
        "step": step,
    } | more


def test_resuming_drops_what_was_logged_after_the_checkpoint(run):
    for step in (1, 2, 3):
        run.log(step, {"loss": float(step)})
    run.save(2, state(2, weights=torch.ones(2)), keep=2)
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    path, notes = run.newest()
    assert torch.equal(load_checkpoint(path)["weights"], torch.ones(2))
    assert notes == []
    assert [line["step"] for line in run.read_metrics()] == [1, 2]


def test_lines_that_are_not_of_a_run_are_left_out_of_its_metrics_and_counted(run):
    run.save(3, state(3), keep=1)
    run.log(1, {"loss": 1.0})
    with open(run.metrics_path, "ab") as file:
        file.write(b'17\n{"loss": 2}\n{"step": "x"}\n\xff\xfe\0\n' + b"[" * 100_000 + b"\n")
    run.log(2, {"loss": 2.0})
    assert [line["step"] for line in run.read_metrics()] == [1, 2]
    assert run.newest()[1] == [f"{run.metrics_path}: 5 lines are not of a run; left out"]
    assert len(run.metrics_path.read_text().splitlines()) == 2


def test_a_run_without_checkpoint_starts_with_empty_metrics(run):
    run.log(1, {"loss": 1.0})
    assert run.newest() == (None, [])
    assert run.read_metrics() == []


@pytest.mark.parametrize("text", ["- a\n- b\n", "text", "", "run: [", "a: &a [*a]"])
def test_settings_that_are_none_are_refused_by_the_name_of_their_file(run, text):
    run.log(1, {"loss": 1.0})
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: (not|its aliases)"):
        run.claim(Config())


def test_only_the_newest_checkpoints_stay(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, state(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_00000010.pt",
        "step_00000015.pt",
    ]
    assert newest_sound(tmp_path) == (tmp_path / "step_00000015.pt", [])


def test_checkpoints_at_round_steps_stay_for_ever(tmp_path):
    for step in range(1, 8):
        save_checkpoint(tmp_path, step, {"step": step}, keep=1, keep_every=3)
    assert [int(path.stem[5:]) for path in list_checkpoints(tmp_path)] == [3, 6, 7]


def test_a_number_that_json_has_not_is_logged_as_null(run):
    run.log(1, {"gradient_norm": float("inf"), "loss": 1.0})
    assert run.read_metrics() == [{"step": 1, "gradient_norm": None, "loss": 1.0}]


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_in_place(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), keep=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match="writing failed"):
            save_checkpoint(tmp_path, 2, {"step": 2, "weights": torch.ones(500_000)}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    assert load_checkpoint(tmp_path / "step_00000001.pt") == state(1)


def flip(path):
    """One bit, in the middle of the numbers."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((8,), 3.0).numpy().tobytes()) + 2] ^= 64
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-900]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("text"),
    "a pickle that prints": lambda path: path.write_bytes(pickle.dumps(print)),
    "of something else": lambda path: torch.save({"a": torch.ones(3)}, path),
    "of another step": lambda path: torch.save(state(7), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used_and_the_damaged_one_put_aside(
    tmp_path, damage
):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step, weights=torch.full((5000,), 3.0)), keep=3)
    DAMAGES[damage](tmp_path / "step_00000002.pt")
    path, notes = newest_sound(tmp_path)
    assert path == tmp_path / "step_00000001.pt"
    assert [note.partition(":")[0] for note in notes] == [str(tmp_path / "step_00000002.pt")]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step_00000001.pt", "step_00000002.pt.damaged"
    ]  # fmt: skip
    # The last good one is not taken for the older of two.
    save_checkpoint(tmp_path, 3, state(3), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_00000001.pt", "step_00000003.pt"
    ]  # fmt: skip


def test_a_run_none_of_whose_checkpoints_can_be_read_does_not_begin_anew_by_itself(tmp_path):
    for step in (1, 2):
        (tmp_path / f"step_0000000{step}.pt").write_text("text")
    with pytest.raises(UserError, match=r"none of its checkpoints .*step_00000002\.pt"):
        newest_sound(tmp_path)
    assert len(list_checkpoints(tmp_path)) == 2
