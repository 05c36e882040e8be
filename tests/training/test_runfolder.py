"""The run folder: whose it is, what survives a kill and a full disk."""

import resource
import signal
from dataclasses import dataclass, field

import pytest
import torch

from transreid_ssl import UserError
from transreid_ssl.training import RunFolder, RunSettings
from transreid_ssl.training.checkpoint import list_checkpoints, load_newest, save_checkpoint


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


def test_overwrite_begins_anew(run):
    run.log(1, {"loss": 2.0})
    run.claim(Config(width=4), overwrite=True)
    assert run.read_metrics() == []
    run.claim(Config(width=4))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not the folder of a run"):
            RunFolder(tmp_path).claim(Config(), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_resuming_drops_what_was_logged_after_the_checkpoint(run):
    for step in (1, 2, 3):
        run.log(step, {"loss": float(step)})
    run.save(2, {"weights": torch.ones(2)}, keep=2)
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    assert torch.equal(run.resume()["weights"], torch.ones(2))
    assert [line["step"] for line in run.read_metrics()] == [1, 2]


def test_a_run_without_checkpoint_starts_with_empty_metrics(run):
    run.log(1, {"loss": 1.0})
    assert run.resume() is None
    assert run.read_metrics() == []


def test_only_the_newest_checkpoints_stay(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_00000010.pt",
        "step_00000015.pt",
    ]
    assert load_newest(tmp_path) == {"step": 15}


def test_checkpoints_at_round_steps_stay_for_ever(tmp_path):
    for step in range(1, 8):
        save_checkpoint(tmp_path, step, {"step": step}, keep=1, keep_every=3)
    assert [int(path.stem[5:]) for path in list_checkpoints(tmp_path)] == [3, 6, 7]


def test_a_number_that_json_has_not_is_logged_as_null(run):
    run.log(1, {"gradient_norm": float("inf"), "loss": 1.0})
    assert run.read_metrics() == [{"step": 1, "gradient_norm": None, "loss": 1.0}]


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_in_place(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)
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
    assert load_newest(tmp_path) == {"step": 1}


def test_a_damaged_checkpoint_is_named_and_never_unpickled_freely(tmp_path):
    import pickle

    save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)
    (tmp_path / "step_00000002.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match=r"step_00000002\.pt"):
        load_newest(tmp_path)
