"""Counting what a step computes without computing it, and the share of what the device can do."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from transreid_ssl.finetune import ClusterObjective, SupervisedObjective
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINO, DINOConfig
from transreid_ssl.training.ceiling import Ceiling, count_flops, product_rate
from transreid_ssl.training.clock import describe_progress

CPU = torch.device("cpu")


def backbone(drop_path=0.0):
    return build_backbone("vit_nano_patch8_ics", img_size=(32, 16), drop_path=drop_path)


def pixels(number, height=32, width=16):
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8)


def dino():
    student = DINO(backbone(0.1), backbone(), DINOConfig(out_dim=64), num_crops=4)
    return student, {"views": [pixels(6), pixels(6, 16, 8)]}


def supervised():
    return SupervisedObjective(backbone(), 4), labelled()


def clusters():
    objective = ClusterObjective(backbone())
    objective.begin_epoch(0, torch.arange(4).numpy(), torch.randn(4, objective.spec.embed_dim))
    objective(labelled())  # hooks on the network note what it gives
    return objective, labelled()


def labelled():
    return {"images": pixels(8), "identities": torch.arange(8) // 2}


@pytest.mark.parametrize("make", [dino, supervised, clusters])
def test_what_is_counted_is_what_a_step_computes_and_nothing_changes(make):
    torch.manual_seed(0)
    objective, batch = make()
    before = copy.deepcopy(objective.state_dict())
    counted = count_flops(objective, batch, 0)
    assert all(parameter.grad is None for parameter in objective.parameters())
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)
    with FlopCounterMode(display=False) as counter:
        objective(batch, 0)["loss"].backward()
    assert counted == counter.get_total_flops() > 1e6


def test_blocks_that_are_to_be_compiled_are_counted_without_it():
    objective, batch = dino()
    expected = count_flops(objective, batch, 0)
    for network in (objective.student, objective.teacher):
        network.backbone.compile_blocks()
    assert count_flops(objective, batch, 0) == expected


def test_the_share_is_arithmetic_over_time_and_rate():
    objective, batch = supervised()
    ceiling = Ceiling(CPU, "no", accumulation=3)
    with pytest.raises(ValueError, match="note a batch"):
        ceiling.measure(objective, 0)
    ceiling.note(batch)
    ceiling.note({"images": pixels(80), "identities": torch.arange(80)})  # the first one counts
    assert ceiling.share(1.0) is None
    ceiling.measure(objective, 0)
    flops = 3 * count_flops(objective, batch, 0)
    assert ceiling.share(2.0) == flops / 2.0 / ceiling.rate
    values = {"images_per_second": 5.0, "loss": 1.0, "lr": 0.1, "data_wait": 0.0, "step_seconds": 1}
    assert "(waits 0%, 43% of the device's ceiling)" in describe_progress(
        1, 2, values | {"ceiling_share": 0.43}
    )
    assert "(waits 0%)" in describe_progress(1, 2, values)


def test_an_objective_that_looks_at_values_has_no_share(capfd):
    objective, batch = supervised()
    ceiling = Ceiling(CPU, "no", accumulation=1)
    ceiling.note(batch)

    class Looking(SupervisedObjective):
        def forward(self, batch, epoch=0):
            return super().forward(batch) if batch["images"].sum().item() else {}

    objective.__class__ = Looking
    ceiling.measure(objective, 0)
    assert ceiling.share(1.0) is None
    assert "Traceback" not in "".join(capfd.readouterr())


def test_matrices_that_memory_has_no_room_for_end_no_training(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("transreid_ssl.training.ceiling.product_rate", full)
    objective, batch = supervised()
    ceiling = Ceiling(CPU, "no", accumulation=1)
    ceiling.note(batch)
    ceiling.measure(objective, 0)
    assert ceiling.share(1.0) is None


def test_a_product_takes_the_time_that_it_takes():
    assert 1e8 < product_rate(CPU, torch.float32) < 1e15
