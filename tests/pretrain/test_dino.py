"""The DINO objective around its loss: who learns, who follows, and what is logged."""

from functools import partial

import pytest
import torch

from tiny_dino import HEAD, batch, build_dino
from transreid_ssl import UserError
from transreid_ssl.models import build_backbone, load_backbone
from transreid_ssl.pretrain import DINO, DINOConfig

objective = partial(build_dino, momentum_teacher=0.5)


def test_the_student_learns_and_the_teacher_follows_it_half_way():
    dino = objective()
    before = [p.clone() for p in dino.teacher.parameters()]
    for slow, fast in zip(dino.teacher.parameters(), dino.student.parameters()):
        assert torch.equal(slow, fast)
        assert not slow.requires_grad
    optimizer = torch.optim.SGD([p for p in dino.parameters() if p.requires_grad], lr=0.1)
    values = dino(batch(), epoch=1)
    values["loss"].backward()
    optimizer.step()
    dino.after_step(progress=0.0)
    for old, slow, fast in zip(before, dino.teacher.parameters(), dino.student.parameters()):
        torch.testing.assert_close(slow, (old + fast) / 2)
    assert any(not torch.equal(a, b) for a, b in zip(before, dino.student.parameters()))
    assert {"loss", "teacher_entropy", "center_norm", "feature_spread"} == set(values)
    after = [p.clone() for p in dino.teacher.parameters()]
    dino.after_step(progress=1.0)  # by then the momentum is one
    assert all(torch.equal(a, b) for a, b in zip(after, dino.teacher.parameters()))


def test_the_centre_moves_after_the_step():
    dino = objective()
    dino(batch(), epoch=1)
    assert not dino.loss.center.any()
    dino.after_step(progress=0.0)
    assert dino.loss.center.any()


def test_a_checkpoint_serves_as_weights_of_either_network(tmp_path):
    dino = objective()
    with torch.no_grad():
        for parameter in dino.student.parameters():
            parameter.add_(1.0)
    state = {"objective": dino.state_dict(), "spec": dino.spec.to_json()}
    torch.save(state | {"backbones": dino.prefixes()}, tmp_path / "step_1.pt")
    for which, network in (("teacher", dino.teacher), ("student", dino.student)):
        loaded = load_backbone(tmp_path / "step_1.pt", which=which).state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in network.backbone.state_dict().items())


def test_the_last_layer_stays_as_it_is_in_the_first_epochs():
    dino = objective(freeze_last_layer=2)
    for epoch, frozen in ((0, True), (1, True), (2, False)):
        dino.zero_grad()
        dino(batch(), epoch)["loss"].backward()
        dino.before_step(epoch)
        assert (dino.student.head.last_layer.weight_v.grad is None) is frozen
        assert dino.student.head.mlp[0].weight.grad is not None


def test_the_loss_compares_views_so_one_view_is_refused():
    networks = [build_backbone("vit_nano_patch8_reid", img_size=(32, 16)) for _ in range(2)]
    with pytest.raises(UserError, match="two or more"):
        DINO(*networks, DINOConfig(**HEAD), num_crops=1, num_teacher_crops=1)


@pytest.mark.parametrize(
    "setting",
    [{"out_dim": 0}, {"head_layers": 0}, {"student_temp": 0.0}, {"momentum_teacher": 1.5}],
)
def test_impossible_settings_are_refused_by_name(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        DINOConfig(**setting)
