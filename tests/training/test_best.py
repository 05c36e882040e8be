"""The file of the best network is one that the log tells of, wherever a run was killed."""

from dataclasses import replace

import pytest

from transreid_ssl.models import build_backbone, read_spec, save_backbone
from transreid_ssl.training import RunFolder
from transreid_ssl.training.best import BestNetwork, best_line


class Run:
    """A run folder in which probes, checkpoints and kills happen as they are called."""

    def __init__(self, path):
        self.folder = RunFolder(path / "run")
        self.folder.checkpoints.mkdir(parents=True)
        self.best = BestNetwork(self.folder, "best.safetensors")
        self.network = build_backbone("vit_nano_patch16_reid", img_size=(32, 16))

    def probe(self, step, value, is_logged=True):
        lines = self.folder.lines_with("probe/mAP")
        best = best_line(lines, "probe/mAP", "people")
        if best is None or value > best["probe/mAP"]:
            self.best.replace(lambda: self.write(step))
        if is_logged:
            self.folder.log(step, {"probe/mAP": value, "probe/on": "people"})

    def write(self, step):
        spec = replace(self.network.spec, provenance={"step": step})
        save_backbone(self.best.path, self.network, spec)

    def checkpoint(self, step):
        state = {"data_key": "", "objective": {}, "optimizer": {}, "scaler": {}, "bad_images": []}
        self.folder.save(step, state, keep=9)

    def go_on(self):
        self.folder.newest()
        return self.best.follow_log()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_the_best_at_a_checkpoint_comes_back_with_it(run):
    run.probe(0, 20.0)
    run.checkpoint(10)
    run.probe(15, 30.0)
    run.probe(20, 40.0)
    assert run.best.step == 20
    assert run.go_on() == ""
    assert run.best.step == 0
    run.probe(15, 10.0)
    assert run.best.step == 0


def test_a_network_whose_probe_was_not_logged_is_measured_again(run):
    run.probe(0, 20.0)
    run.checkpoint(10)
    run.probe(10, 30.0, is_logged=False)
    run.go_on()
    assert run.best.step == 0


def test_a_network_that_the_log_tells_of_stays(run):
    run.probe(0, 20.0)
    run.checkpoint(10)
    run.probe(10, 30.0)
    run.checkpoint(20)
    run.probe(20, 25.0)
    assert run.go_on() == ""
    assert run.best.step == 10


def test_a_network_that_nothing_tells_of_is_removed_and_said(run):
    run.probe(0, 20.0)
    run.checkpoint(10)
    run.write(15)  # as older versions did
    assert "best.safetensors: was of step 15, which the run makes again" in run.go_on()
    assert not run.best.path.exists()


def test_a_network_of_steps_that_are_not_made_again_stays_when_the_log_is_lost(run):
    run.probe(5, 30.0)
    run.checkpoint(10)
    run.folder.metrics_path.unlink()
    assert run.go_on() == ""
    assert run.best.step == 5


def test_a_run_that_begins_anew_says_nothing_of_it(run):
    run.probe(0, 20.0)
    assert run.go_on() == ""
    assert not run.best.path.exists()


def test_a_write_that_failed_leaves_the_network_that_was_the_best(run):
    def fail():
        raise OSError("no space left")

    run.probe(0, 20.0)
    run.checkpoint(10)
    with pytest.raises(OSError, match="no space"):
        run.best.replace(fail)
    assert read_spec(run.best.path).provenance["step"] == 0
    run.probe(15, 30.0)
    run.go_on()
    assert run.best.step == 0
