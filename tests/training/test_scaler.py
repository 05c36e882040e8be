"""fp16 with a loss scaler, which CPUs have too when it is put in place by hand."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import launch
from transreid_ssl.models import BackboneSpec
from transreid_ssl.training import (
    Objective,
    OptimizerSettings,
    Plan,
    RunFolder,
    RunSettings,
    Trainer,
    build_optimizer,
)
from transreid_ssl.training.checkpoint import capture, list_checkpoints, load_checkpoint, restore

STEPS = 12


class Line(Objective):
    """Fits a line, and notes in which precision."""

    name = "line"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)
        self.backbone = nn.Identity()
        self.backbone.spec = BackboneSpec("vit_nano_patch8_reid")
        self.dtypes = set()

    def forward(self, batch, epoch):
        found = self.line(batch["x"])
        self.dtypes.add(found.dtype)
        return {"loss": (found.float() - batch["x"].sum(1, keepdim=True)).square().mean()}


def batches(first):
    for step in range(first, STEPS):
        yield {"x": torch.randn(4, 3, generator=torch.Generator().manual_seed(step))}


def trainer(path, objective):
    """The scale begins so large that the first steps overflow, and grows again after three."""
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=3)
    settings = RunSettings(batch_size=4, log_every=2, checkpoint_every=7, precision="fp16")
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05, momentum=0.9)
    plan = Plan(steps_per_epoch=4, epochs=3, lr=lambda step: 0.05)
    run = RunFolder(path)
    run.claim(settings)
    return Trainer(accelerator, objective, optimizer, plan, run, settings)


@pytest.fixture(autouse=True)
def _alone():
    with launch.fresh_process():
        yield


def test_steps_that_overflow_are_left_out_and_the_scale_follows(tmp_path):
    objective = Line()
    first = objective.line.weight.detach().clone()
    scales, weights = [], []
    running = trainer(tmp_path, objective)
    objective.after_step = lambda progress: (
        scales.append(running.accelerator.scaler.get_scale()),
        weights.append(objective.line.weight.detach().clone()),
    )
    running.fit(batches(0))
    assert objective.dtypes == {torch.float16}
    assert scales[0] == 2.0**17
    assert torch.equal(weights[0], first)
    assert not torch.equal(weights[-1], first)
    assert weights[-1].isfinite().all()
    assert max(scales[i + 1] / scales[i] for i in range(STEPS - 1)) == 2  # it grew again
    for before, after, scale, smaller in zip(weights, weights[1:], scales, scales[1:]):
        assert torch.equal(before, after) == (smaller < scale)


def test_a_resumed_run_has_the_scale_and_the_weights_of_an_unbroken_one(tmp_path):
    trainer(tmp_path / "whole", Line()).fit(batches(0))
    broken = trainer(tmp_path / "broken", Line())

    def stop(progress):
        if broken.step == 8:
            raise RuntimeError("pulled the plug")

    broken.objective.after_step = stop
    with pytest.raises(RuntimeError, match="plug"):
        broken.fit(batches(0))
    again = trainer(tmp_path / "broken", Line())
    assert again.step == 7
    again.fit(batches(7))
    states = [
        load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1])
        for name in ("whole", "broken")
    ]
    whole, resumed = states
    assert whole["scaler"] == resumed["scaler"]
    assert whole["scaler"]["scale"] < 2.0**18
    for name, value in whole["objective"].items():
        assert torch.equal(value, resumed["objective"][name])


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_run_goes_on_in_its_own_way_of_computing(tmp_path, name):
    """Whatever the way of the version or the processes that wrote its checkpoint."""
    settings, gpu = OptimizerSettings(name=name, lr=0.05), torch.device("cuda")

    def make():
        objective = Line()
        return objective, build_optimizer(objective, settings, gpu), torch.amp.GradScaler("cpu")

    def step(objective, optimizer, scaler):
        scaler.scale(objective(next(batches(0)), 0)["loss"]).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    before = make()
    step(*before)
    state = copy.deepcopy(capture(*before))
    for group in state["optimizer"]["param_groups"]:
        group |= {"fused": None, "foreach": None}
    for slots in state["optimizer"]["state"].values():
        slots |= {"step": slots["step"].cpu()} if "step" in slots else {}
    after = make()
    restore(tmp_path, state, *after)
    own = make()[1].param_groups[0]
    for group in after[1].param_groups:
        assert (group["fused"], group["foreach"]) == (own["fused"], own["foreach"])
    step(*before)
    step(*after)
    assert torch.equal(after[0].line.weight, before[0].line.weight)
