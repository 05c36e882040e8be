"""Clipping, parameter groups and moving averages against plain loops."""

import pytest
import torch
from torch import nn

from transreid_ssl import UserError
from transreid_ssl.models import build_backbone
from transreid_ssl.training import (
    OptimizerSettings,
    build_optimizer,
    clip_gradients,
    ema_update,
    parameter_groups,
)
from transreid_ssl.training.optim import layer_scales


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    (100 * network(torch.randn(5, 6)).square().sum()).backward()
    return network


def test_each_parameter_is_clipped_by_itself():
    ours, plain = _network(), _network()
    clip_gradients(ours.parameters(), 3.0, each=True)
    for parameter in plain.parameters():
        nn.utils.clip_grad_norm_([parameter], 3.0)
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_global_norm_is_clipped_as_torch_does():
    ours, plain = _network(), _network()
    norm = clip_gradients(ours.parameters(), 0.7, each=False)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(plain.parameters(), 0.7))
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_small_gradients_and_missing_ones_are_left_alone():
    network = _network()
    before = [p.grad.clone() for p in network.parameters()]
    clip_gradients(network.parameters(), 1e9, each=True)
    for parameter, gradient in zip(network.parameters(), before):
        torch.testing.assert_close(parameter.grad, gradient)
    assert clip_gradients(nn.Linear(2, 2).parameters(), 1.0, each=True) == 0


def test_lars_leaves_biases_and_norms_alone_whatever_decays():
    network = _network()
    settings = OptimizerSettings(name="lars", lr=0.1, decay_all=True, momentum=0.0)
    expected = network[0].bias - 0.1 * network[0].bias.grad
    build_optimizer(network, settings).step()
    torch.testing.assert_close(network[0].bias.data, expected.data)


def test_biases_and_norms_have_no_weight_decay():
    network = _network()
    network[0].weight.requires_grad_(False)
    plain, decayed = parameter_groups(network, OptimizerSettings(weight_decay=0.3))
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 8)]
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(3,), (8,), (8,), (8,)]
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.3)
    assert (plain["decay"], decayed["decay"]) == (False, True)


def test_everything_decays_and_biases_learn_faster_where_asked_for():
    network = _network()
    settings = OptimizerSettings(weight_decay=0.3, decay_all=True, bias_lr_scale=2.0)
    groups = {group["peak_scale"]: group for group in parameter_groups(network, settings)}
    assert sorted(groups) == [1.0, 2.0]
    assert [tuple(p.shape) for p in groups[2.0]["params"]] == [(8,), (8,), (3,)]
    assert all(group["weight_decay"] == 0.3 for group in groups.values())


def test_layers_learn_the_slower_the_earlier_they_are():
    backbone = build_backbone("vit_nano_patch8_ics", img_size=(32, 16), feature_norm=True)
    network = nn.Sequential()
    network.add_module("backbone", backbone)
    network.add_module("head", nn.Linear(128, 2))
    groups = parameter_groups(network, OptimizerSettings(layer_decay=0.5, bias_lr_scale=2.0))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    peaks = {names[id(p)]: group["peak_scale"] for group in groups for p in group["params"]}
    assert {peak for name, peak in peaks.items() if name.endswith("bias")} == {2.0}
    assert {peak for name, peak in peaks.items() if not name.endswith("bias")} == {1.0}
    assert found["head.weight"] == found["backbone.bottleneck.weight"] == 1.0
    assert found["head.bias"] == 1.0
    assert found["backbone.norm.weight"] == found["backbone.blocks.3.mlp.fc2.weight"] == 0.5
    assert found["backbone.blocks.0.attn.qkv.weight"] == 0.5**4
    assert found["backbone.blocks.0.attn.qkv.bias"] == 0.5**4
    stem = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.conv.0.weight")
    assert {found[f"backbone.{name}"] for name in stem} == {0.5**5}
    assert sum(len(group["params"]) for group in groups) == sum(
        parameter.requires_grad for parameter in network.parameters()
    )


def test_tokens_of_parts_are_of_the_first_layer_and_jigsaw_blocks_of_the_last():
    parts = layer_scales(build_backbone("vit_nano_patch8_pass", img_size=(32, 16)), 0.5)
    first = [name for name in parts if name.startswith(("cls_", "part"))]
    assert len(first) == 2 + 2 * 3
    assert {parts[name] for name in first} == {parts["pos_embed"]} == {0.5**5}
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16), jpm=True)
    jigsaw = layer_scales(model, 0.5)
    assert jigsaw.keys() == dict(model.named_parameters()).keys()
    assert {scale for name, scale in jigsaw.items() if name.startswith("b2.")} == {0.5}
    assert jigsaw["blocks.0.norm1.weight"] == 0.5**4


def test_layers_of_an_unknown_network_are_refused():
    with pytest.raises(UserError, match=r"--optim\.layer_decay 0\.5: .*not known"):
        parameter_groups(_network(), OptimizerSettings(layer_decay=0.5))


def test_a_moving_average_is_what_it_says():
    slow, fast = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 6.0])]
    ema_update(slow, fast, 0.75)
    torch.testing.assert_close(slow[0], torch.tensor([1.5, 3.0]))


@pytest.mark.parametrize("name", ["adamw", "sgd", "adam", "lars"])
def test_every_optimiser_lowers_a_loss_under_the_schedules_rate(name):
    torch.manual_seed(0)
    network, inputs = nn.Linear(4, 1, bias=False), torch.randn(32, 4)
    optimizer = build_optimizer(network, OptimizerSettings(name=name))
    losses = []
    for _ in range(30):
        for group in optimizer.param_groups:
            group["lr"] = {"adamw": 0.05, "sgd": 0.05, "adam": 0.05, "lars": 50.0}[name]
            group["weight_decay"] = 1e-4
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture
def nothing_by_chance():
    """Memory that nothing was written to holds no numbers, and not what happens to lie there."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lars"])
def test_weights_may_rest_at_first_and_a_scaler_may_leave_steps_out(
    name, device, nothing_by_chance
):
    """As MGN's do; and as a first scale is too large more often than not."""
    model = nn.Linear(2, 2, bias=False)
    rests = nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(model.weight)
    optimizer = build_optimizer(
        nn.ModuleList([model, rests]),
        OptimizerSettings(name=name, lr=0.1, weight_decay=0.0),
        torch.device(device),
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, thawed in ((torch.inf, False), (1.0, False), (1.0, True)):
        model.weight.grad = torch.full_like(model.weight, gradient) * scaler.get_scale()
        scaler.scale(torch.zeros(()))  # as a loss would be
        if thawed:
            rests.weight.grad = torch.ones_like(rests.weight) * scaler.get_scale()
        before = [part.weight.detach().clone() for part in (model, rests)]
        scaler.step(optimizer)
        scaler.update()
        moved = [
            not torch.equal(part.weight, old)
            for part, old in zip((model, rests), before, strict=True)
        ]
        assert moved == [gradient == 1.0, thawed]
        assert all(part.weight.isfinite().all() for part in (model, rests))
