"""Schedules against the published program's numbers and their end points."""

from functools import partial
from pathlib import Path

import numpy as np

from transreid_ssl.training import (
    OptimizerSettings,
    RunSettings,
    cosine,
    pretraining_plan,
    warmup_cosine,
)

REFERENCE = np.load(Path(__file__).parents[1] / "pretrain" / "reference.npz")
STEPS = range(0, 5000, 25)  # 100 epochs of 50 steps, every 25th


def test_dino_schedules_are_the_published_ones():
    plan = pretraining_plan(
        OptimizerSettings(lr=5e-4),
        RunSettings(epochs=100, batch_size=1024),
        num_images=50 * 1024 + 7,
    )
    assert (plan.steps_per_epoch, plan.total_steps) == (50, 5000)
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
