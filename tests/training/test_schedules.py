"""Schedules against the published programs' numbers and their end points."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from transreid_ssl.finetune.settings import CLUSTER_OPTIM, MGN_OPTIM, SUPERVISED_OPTIM
from transreid_ssl.training import OptimizerSettings, RunSettings, cosine, make_plan, warmup_cosine
from transreid_ssl.training.plan import learning_rate

REFERENCE = np.load(Path(__file__).parents[1] / "pretrain" / "reference.npz")
STEPS = range(0, 5000, 25)  # 100 epochs of 50 steps, every 25th


def test_dino_schedules_are_the_published_ones():
    run = RunSettings(epochs=100, batch_size=1024)
    plan = make_plan(OptimizerSettings(lr=5e-4), run, steps_per_epoch=50)
    assert plan.total_steps == 5000
    lr = [plan.lr(step) for step in STEPS]
    decay = [plan.weight_decay(step) for step in STEPS]
    momentum = [cosine(step / 5000, 0.996, 1.0) for step in STEPS]
    np.testing.assert_allclose(lr, REFERENCE["dino_schedule/lr"], rtol=1e-6)
    np.testing.assert_allclose(decay, REFERENCE["dino_schedule/wd"], rtol=1e-6)
    np.testing.assert_allclose(momentum, REFERENCE["dino_schedule/momentum"], rtol=1e-6)


def test_warm_up_starts_at_its_start_and_reaches_the_peak_on_its_last_step():
    schedule = partial(warmup_cosine, peak=1.0, end=0.1, total_steps=20, warmup_steps=5, start=0.2)
    np.testing.assert_allclose([schedule(step) for step in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert schedule(5) == 1.0
    assert schedule(20) == 0.1


def test_supervised_fine_tuning_has_the_published_rate_of_each_epoch():
    published = np.load(Path(__file__).parents[1] / "finetune" / "reference.npz")
    plan = make_plan(SUPERVISED_OPTIM, RunSettings(epochs=121), steps_per_epoch=1)
    found = [learning_rate(epoch, 120, SUPERVISED_OPTIM, 4e-4) for epoch in range(121)]
    np.testing.assert_allclose(found, published["finetune_schedule/lr_per_epoch"], rtol=1e-9)
    assert plan.weight_decay is None


# From the authors' scheduler: the rates of biases, whose peak is twice as high.
BIAS_RATES = {0: 4e-6, 1: 4.38e-5, 10: 4.02e-4, 19: 7.602e-4, 20: 7.464637513522618e-4,
              60: 4.004e-4, 119: 9.36932939767319e-7}  # fmt: skip


def test_biases_have_the_published_rate_whose_ends_are_those_of_weights():
    plan = make_plan(SUPERVISED_OPTIM, RunSettings(epochs=120), steps_per_epoch=3)
    for epoch, rate in BIAS_RATES.items():
        groups = [{"lr_scale": 1.0, "peak_scale": scale} for scale in (1.0, 2.0)]
        plan.apply(groups, 3 * epoch + 2)
        assert groups[1]["lr"] == pytest.approx(rate, rel=1e-9)
        assert groups[0]["lr"] == learning_rate(epoch, 120, SUPERVISED_OPTIM, 4e-4)


def test_a_cosine_may_begin_with_the_warm_up():
    """MoBY's rates, from timm's scheduler as its authors call it."""
    settings = OptimizerSettings(
        lr=1e-3, lr_batch=512, min_lr=5e-6, warmup_epochs=5, warmup_start=5e-4, whole_cosine=True
    )
    plan = make_plan(settings, RunSettings(epochs=300, batch_size=512), steps_per_epoch=50)
    found = [plan.lr(step) for step in (0, 125, 249, 250, 7500, 14_999)]
    expected = [5e-7, 5.0025e-4, 9.96002e-4, 9.993181935404e-4, 5.025e-4, 5.000010911396e-6]
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_rate_by_epoch_changes_between_epochs_only():
    plan = make_plan(SUPERVISED_OPTIM, RunSettings(epochs=120), steps_per_epoch=7)
    assert plan.total_steps == 840
    for step in (0, 6, 7, 139, 140, 839):
        assert plan.lr(step) == learning_rate(step // 7, 120, SUPERVISED_OPTIM, 4e-4)


def test_steps_divide_the_rate_every_twenty_epochs():
    plan = make_plan(CLUSTER_OPTIM, RunSettings(epochs=50), steps_per_epoch=2)
    rates = [plan.lr(step) for step in (0, 39, 40, 79, 80, 99)]
    assert rates == pytest.approx([3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6])


def test_a_plateau_climbs_stays_and_falls():
    settings = replace(MGN_OPTIM, lr=1.0, end=0.01)
    rates = {epoch: learning_rate(epoch, 60, settings, 1.0) for epoch in (0, 5, 10, 29, 30, 45, 60)}
    assert rates == pytest.approx({0: 0.01, 5: 0.505, 10: 1, 29: 1, 30: 1, 45: 0.505, 60: 0.01})
    quarter = 0.01 + 0.99 * (1 + math.cos(math.pi / 4)) / 2
    assert learning_rate(37.5, 60, settings, 1.0) == pytest.approx(quarter)
    assert learning_rate(19, 20, settings, 1.0) == 1  # a run that ends on the plateau


def test_a_plateaus_rate_moves_with_every_step():
    plan = make_plan(MGN_OPTIM, RunSettings(epochs=60), steps_per_epoch=4)
    assert plan.total_steps == 240
    assert plan.lr(0) == pytest.approx(3.5e-6)
    assert plan.lr(1) - plan.lr(0) == pytest.approx(0.99 * 3.5e-4 / 40)
    assert plan.lr(100) == 3.5e-4
    assert MGN_OPTIM.lowest(3.5e-4) == pytest.approx(7.7e-7)  # LUPerson's, as is the 0.01


def test_the_larger_of_both_ends_counts():
    settings = OptimizerSettings(min_lr=1e-5, end=0.1)
    assert settings.lowest(1e-3) == pytest.approx(1e-4)
    assert settings.lowest(1e-5) == pytest.approx(1e-5)


def test_an_extended_run_has_the_rates_of_a_run_of_so_many_epochs():
    longer = make_plan(OptimizerSettings(), RunSettings(epochs=20), 7)
    extended = make_plan(OptimizerSettings(), RunSettings(epochs=12, extend_to=20), 7)
    assert extended.total_steps == longer.total_steps == 140
    assert [extended.lr(step) for step in range(140)] == [longer.lr(step) for step in range(140)]
