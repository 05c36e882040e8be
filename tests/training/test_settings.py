"""Settings that would end in a traceback, or in silence, are refused when they are read."""

import math

import pytest

from transreid_ssl import UserError
from transreid_ssl.training import (
    BackboneSettings,
    OptimizerSettings,
    PoolSettings,
    ProbeSettings,
    RunSettings,
)

WRONG = [
    (RunSettings, "seed", (-1, 2**32)),
    (RunSettings, "epochs", (0, -3)),
    (RunSettings, "batch_size", (0, -8)),
    (RunSettings, "accumulation", (0,)),
    (RunSettings, "num_workers", (-1,)),
    (RunSettings, "num_threads", (0,)),
    (RunSettings, "log_every", (0,)),
    (RunSettings, "checkpoint_every", (0,)),
    (RunSettings, "keep_checkpoints", (0,)),
    (RunSettings, "keep_every", (-1,)),
    (RunSettings, "collapse_spread", (-0.1, math.nan)),
    (RunSettings, "collapse_patience", (-1,)),
    (PoolSettings, "max_bad_fraction", (-0.1, 1.1, math.nan)),
    (BackboneSettings, "img_size", ((0, 128),)),
    (BackboneSettings, "drop_path", (-0.1, 1.0)),
    (BackboneSettings, "stride", (0,)),
    (BackboneSettings, "camera_weight", (-1.0,)),
    (OptimizerSettings, "lr", (0.0, -1e-3, math.nan, math.inf)),
    (OptimizerSettings, "lr_batch", (0,)),
    (OptimizerSettings, "min_lr", (-1e-6,)),
    (OptimizerSettings, "warmup_epochs", (-1.0,)),
    (OptimizerSettings, "weight_decay", (-0.1,)),
    (OptimizerSettings, "weight_decay_end", (-0.1,)),
    (OptimizerSettings, "warmup_start", (1.5,)),
    (OptimizerSettings, "end", (-0.1,)),
    (OptimizerSettings, "bias_lr_scale", (-1.0,)),
    (OptimizerSettings, "layer_decay", (0.0, 1.1)),
    (OptimizerSettings, "step_epochs", (0,)),
    (OptimizerSettings, "plateau_epochs", (-1.0,)),
    (OptimizerSettings, "clip", (-1.0,)),
    (OptimizerSettings, "betas", ((0.9, 1.0), (-0.1, 0.9))),
    (OptimizerSettings, "momentum", (1.0, -0.1)),
    (ProbeSettings, "every", (-1,)),
    (ProbeSettings, "batch_size", (0,)),
    (ProbeSettings, "num_workers", (-1,)),
    (ProbeSettings, "max_query", (0,)),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(kind, name, v) for kind, name, values in WRONG for v in values]
)
def test_wrong_values_are_one_line(kind, name, value):
    with pytest.raises(UserError) as error:
        kind(**{name: value})
    assert str(error.value).startswith(f"{kind.__name__}.{name} is {value}: give ")
    assert "\n" not in str(error.value)


def test_open_choices_pass():
    RunSettings(num_threads=None, num_workers=0, collapse_patience=0)
    BackboneSettings(drop_path=0, stride=None)
    OptimizerSettings(lr_batch=None, min_lr=0, warmup_epochs=0, clip=0, weight_decay=0)
    OptimizerSettings(weight_decay_end=None, plateau_epochs=0)  # which only a plateau looks at


@pytest.mark.parametrize(
    ("steps", "apart", "patience"), [(5000, 50, 20), (400, 20, 50), (28, 1, 1000), (1, 1, 1000)]
)
def test_a_short_run_logs_more_often_and_is_as_patient(steps, apart, patience):
    paced = RunSettings(log_every=50, collapse_patience=20).paced(steps)
    assert (paced.log_every, paced.collapse_patience) == (apart, patience)
    assert RunSettings(collapse_patience=0).paced(steps).collapse_patience == 0


def test_a_plateau_begins_after_the_warm_up():
    with pytest.raises(UserError, match="plateau_epochs is 9: give 10 or more"):
        OptimizerSettings(schedule="plateau", warmup_epochs=10, plateau_epochs=9)
    ProbeSettings(every=0, max_query=None)
