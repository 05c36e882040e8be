"""A phase that is to end before a training does, and takes all of it."""

from dataclasses import replace

import pytest
import torch

import launch
from transreid_ssl.finetune.mgn import MGNObjective
from transreid_ssl.finetune.settings import MGN_OPTIM, MGNConfig
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINO, DINOConfig
from transreid_ssl.training import OptimizerSettings, RunSettings, make_plan
from transreid_ssl.training.phases import of_optimizer, without_end


def said(optim, epochs=4, steps=5, phases=(), **more):
    run = RunSettings(epochs=epochs)
    return without_end([*of_optimizer(optim), *phases], run, steps, **more)


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("warmup", [0, 0.3, 1, 1.5, 2, 2.9, 3, 3.5, 3.95, 4, 9])
def test_a_warm_up_is_told_that_no_other_rate_follows(by_epoch, warmup):
    optim = OptimizerSettings(warmup_epochs=warmup, by_epoch=by_epoch, warmup_start=0.1)
    rates = [make_plan(optim, RunSettings(epochs=4), 5).lr(step) for step in range(20)]
    assert bool(said(optim)) == (rates == sorted(rates) and rates[0] < rates[-1])


@pytest.mark.parametrize(("epochs", "by_epoch"), [(1, False), (1, True), (7, True), (40, False)])
def test_what_is_to_be_given_instead_is_no_phase_without_end(epochs, by_epoch):
    optim = replace(MGN_OPTIM, warmup_epochs=50, plateau_epochs=60, by_epoch=by_epoch)
    run = RunSettings(epochs=epochs)
    found = of_optimizer(optim)
    assert without_end(found, run, 5)
    instead = {p.setting.removeprefix("optim."): p.instead(epochs) for p in found}
    assert not without_end(of_optimizer(replace(optim, **instead)), run, 5)


def test_a_plateau_is_not_to_be_shorter_than_the_warm_up_before_it():
    optim = OptimizerSettings(schedule="plateau", warmup_epochs=10, plateau_epochs=20)
    assert "--optim.plateau_epochs 20: give 10)" in said(optim, epochs=15)
    assert not said(replace(optim, plateau_epochs=10), epochs=15)


def test_all_are_told_in_one_line():
    backbones = [build_backbone("vit_nano_patch8_reid", img_size=(32, 16)) for _ in range(2)]
    settings = DINOConfig(
        out_dim=8, freeze_last_layer=4, teacher_temp=0.07, warmup_teacher_temp_epochs=30
    )
    objective = DINO(*backbones, settings, num_crops=2)
    line = said(OptimizerSettings(), phases=objective.phases)
    assert line == (
        "note: in the whole run, 4 epochs, the learning rate rises (--optim.warmup_epochs 10: give "
        "0.4), and the last layer of the heads stays as it is (--dino.freeze_last_layer 4: give "
        "0), and the teacher's temperature warms up (--dino.warmup_teacher_temp_epochs 30: give "
        "1); or give more --run.epochs"
    )
    assert not said(OptimizerSettings(warmup_epochs=1), epochs=40, phases=objective.phases)
    assert "give more --run.extend_to" in without_end(
        objective.phases, RunSettings(epochs=2, extend_to=4), 5
    )
    constant = replace(settings, freeze_last_layer=0, warmup_teacher_temp=0.07)
    assert not said(OptimizerSettings(warmup_epochs=0), phases=DINO(*backbones, constant, 2).phases)


def test_weights_that_rest_in_the_whole_of_a_stage():
    with torch.device("meta"):
        mgn = MGNObjective(build_backbone("mgn_resnet_nano", img_size=(48, 16)), 3, MGNConfig())
    line = said(OptimizerSettings(warmup_epochs=0), phases=mgn.phases, group="source_training")
    assert "the pre-trained weights rest (--source_training.mgn.freeze_epochs 10: give 0)" in line
    assert line.endswith("or give more --source_training.epochs")


def test_a_run_that_is_all_warm_up_says_so(tmp_path):
    text = launch.run(
        launch.DINO, *launch.TINY, f"--run.output={tmp_path / 'run'}", "--run.epochs=1",
        "--optim.warmup_epochs=1", "--dino.freeze_last_layer=0",
    )  # fmt: skip
    assert text.count("note: in the whole run, 1 epoch, the learning rate rises") == 1
