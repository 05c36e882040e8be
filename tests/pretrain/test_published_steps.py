"""Steps of training against numbers that the authors' programs gave, from weights and images that
are made from names: losses, schedules, clipping, frozen layers, decay and moving averages together.

Computed on a CPU in float64 with TransReID-SSL's DINO; stochastic depth was off.
"""

import pytest
import torch

from reference import normal
from transreid_ssl.models import build_backbone
from transreid_ssl.pretrain import DINO, DINOConfig
from transreid_ssl.training import OptimizerSettings, RunSettings, make_plan
from transreid_ssl.training.optim import build_optimizer, clip_gradients

EPOCHS, STEPS, IMAGES = 4, 2, 4
OPTIM = OptimizerSettings(
    lr=5e-4, lr_batch=None, min_lr=1e-5, warmup_epochs=1, clip=0.02,
    weight_decay=4.0, weight_decay_end=40.0,  # large enough to be seen in eight steps
)  # fmt: skip

LOSSES = [2.27425339, 2.70382255, 2.30858923, 2.92455104, 2.67268062, 2.49776929, 2.25670929,
          2.59146328]  # fmt: skip
CENTRE = 0.78221096
SUMS = [46.8391053, 18.9380890]
"""Of the absolute values of the teacher's positions and of the student's last layer."""


def tensor(tag, *shape):
    return torch.from_numpy(normal(tag, shape))


@pytest.fixture
def dino():
    networks = [
        build_backbone("vit_nano_patch8_reid", img_size=(32, 16), position_resampling="dino")
        for _ in range(2)
    ]
    config = DINOConfig(
        out_dim=32, hidden_dim=64, bottleneck_dim=16, freeze_last_layer=1, momentum_teacher=0.9
    )
    dino = DINO(*networks, config, num_crops=6)
    with torch.no_grad():
        for name, value in dino.student.named_parameters():
            if not name.endswith("weight_g"):
                scale = "norm" in name and name.endswith("weight")
                value.copy_(0.05 * tensor(name, *value.shape) + scale)
    dino.teacher.load_state_dict(dino.student.state_dict())
    return dino


def test_eight_steps_of_dino_are_those_of_transreid_ssl(dino):
    plan = make_plan(OPTIM, RunSettings(epochs=EPOCHS, batch_size=IMAGES), STEPS)
    optimizer, losses = build_optimizer(dino, OPTIM), []
    for step in range(plan.total_steps):
        large = tensor(f"large{step}", 2 * IMAGES, 3, 32, 16)
        small = tensor(f"small{step}", 4 * IMAGES, 3, 16, 8)
        plan.apply(optimizer.param_groups, step)
        loss = dino({"views": [large, small]}, step // STEPS)["loss"]
        loss.backward()
        clip_gradients([p for p in dino.parameters() if p.requires_grad], plan.clip, each=True)
        dino.before_step(step // STEPS)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        dino.after_step(step / plan.total_steps)
        losses.append(loss.item())
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert dino.loss.center.norm().item() == pytest.approx(CENTRE, rel=1e-4)
    teacher, student = dino.teacher.backbone, dino.student.head
    sums = [v.abs().sum().item() for v in (teacher.pos_embed, student.last_layer.weight_v)]
    assert sums == pytest.approx(SUMS, rel=1e-5)
