"""The training loop on a toy objective: logging, stops that leave a good state, and collapse."""

import os
import signal

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from transreid_ssl import UserError
from transreid_ssl.models import BackboneSpec
from transreid_ssl.training import (
    Plan,
    ProbeSettings,
    RetrievalProbe,
    RunFolder,
    RunSettings,
    Trainer,
    feature_spread,
)
from transreid_ssl.training.checkpoint import load_newest


class Toy(nn.Module):
    """Fits a line with noise from torch's global generator; counts what it is told."""

    def __init__(self, bad_step: int | None = None, on_step=None) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.bad_step, self.on_step = bad_step, on_step
        self.epochs: list[int] = []

    def forward(self, batch, epoch):
        loss = (self.line(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        loss = loss + 0.1 * torch.rand(()) * self.line.weight.sum()
        return {"loss": loss * (float("nan") if int(self.steps) == self.bad_step else 1.0)}

    def before_step(self, epoch):
        self.epochs.append(epoch)

    def after_step(self, progress):
        self.steps += 1
        if self.on_step:
            self.on_step(int(self.steps))


def trainer(path, objective, **settings):
    settings = RunSettings(
        **{"batch_size": 4, "log_every": 2, "checkpoint_every": 3, "precision": "no"} | settings
    )
    torch.manual_seed(0)
    objective.line.reset_parameters()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    plan = Plan(steps_per_epoch=4, epochs=3, lr=lambda step: 0.1 / (1 + step))
    run = RunFolder(path)
    run.claim(settings)
    return Trainer(Accelerator(cpu=True), objective, optimizer, plan, run, settings)


def batches(first, accumulation=1):
    for step in range(first, 12):
        values = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        yield from ({"x": part} for part in values.chunk(accumulation))


def test_a_run_logs_trains_and_tells_the_epoch(tmp_path):
    objective = Toy()
    trainer(tmp_path, objective).fit(batches(0))
    lines = RunFolder(tmp_path).read_metrics()
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["lr"] == pytest.approx(0.05)
    assert objective.epochs == [0] * 4 + [1] * 4 + [2] * 4


def test_a_logged_loss_is_the_mean_since_the_last_line(tmp_path):
    every, second = tmp_path / "every", tmp_path / "second"
    trainer(every, Toy(), log_every=1).fit(batches(0))
    trainer(second, Toy()).fit(batches(0))
    single = [line["loss"] for line in RunFolder(every).read_metrics()]
    paired = [line["loss"] for line in RunFolder(second).read_metrics()]
    means = [(a + b) / 2 for a, b in zip(single[::2], single[1::2])]
    assert paired == pytest.approx(means, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_good_state_kept(tmp_path):
    with pytest.raises(UserError, match="stopped being finite"):
        trainer(tmp_path, Toy(bad_step=4)).fit(batches(0))
    state = load_newest(tmp_path / "checkpoints")
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["objective"].values())


def test_a_checkpoint_is_never_written_over_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(UserError, match="stopped being finite"):
        trainer(tmp_path, Toy(bad_step=4), log_every=100).fit(batches(0))
    assert load_newest(tmp_path / "checkpoints")["step"] == 3


def test_an_interrupt_ends_the_step_and_a_new_start_goes_on_exactly(tmp_path):
    whole, broken = Toy(), tmp_path / "broken"
    trainer(tmp_path / "whole", whole).fit(batches(0))
    interrupt = Toy(on_step=lambda step: step == 5 and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer(broken, interrupt).fit(batches(0))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = Toy()
    resumed = trainer(broken, again)
    assert resumed.step == 5
    resumed.fit(batches(5))
    assert torch.equal(again.line.weight, whole.line.weight)
    assert int(again.steps) == 12


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    trainer(tmp_path, Toy()).fit(batches(0))
    with pytest.raises(UserError, match="other images"):
        Trainer(
            Accelerator(cpu=True), toy := Toy(), torch.optim.SGD(toy.parameters()),
            Plan(4, 3, lambda step: 0.1), RunFolder(tmp_path), RunSettings(), data_key="another",
        )  # fmt: skip


def test_feature_spread_is_zero_for_one_point_and_near_one_for_noise():
    assert feature_spread(torch.ones(50, 8) * torch.arange(1, 51)[:, None]) < 1e-3
    noise = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_spread(noise) == pytest.approx(1.0, abs=0.01)


class Brightness(nn.Module):
    """Features that differ between images by ``scale`` only."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.spec = BackboneSpec("vit_nano_patch8_reid", img_size=(32, 16))

    def forward(self, images):
        return 1.0 + self.scale * images.flatten(2).mean(dim=2)


def test_the_probe_stops_a_collapse_after_its_patience_and_lets_a_healthy_run_be():
    settings = ProbeSettings("demo:test=4,images=4,height=32,width=16", collapse_patience=2)
    accelerator = Accelerator(cpu=True)
    collapsed, healthy = Brightness(0.0), Brightness(1.0)
    probe = RetrievalProbe(settings, lambda: collapsed, collapsed.spec, accelerator)
    assert probe(0)["probe/feature_spread"] < 1e-4
    with pytest.raises(UserError, match="collapsed"):
        probe(10)
    probe = RetrievalProbe(settings, lambda: healthy, healthy.spec, accelerator)
    values = [probe(step) for step in range(4)]
    assert values[0] == values[3]
    assert values[0]["probe/mAP_chance"] > 0
