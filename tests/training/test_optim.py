"""Clipping, parameter groups and moving averages against plain loops."""

import pytest
import torch
from torch import nn

from transreid_ssl.training import (
    OptimizerSettings,
    build_optimizer,
    clip_gradients,
    decay_groups,
    move_towards,
)


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


def test_biases_and_norms_have_no_weight_decay():
    network = _network()
    network[0].weight.requires_grad_(False)
    decayed, plain = decay_groups(network)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 8)]
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(3,), (8,), (8,), (8,)]
    assert plain["weight_decay"] == 0.0


def test_a_moving_average_is_what_it_says():
    slow, fast = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 6.0])]
    move_towards(slow, fast, 0.75)
    torch.testing.assert_close(slow[0], torch.tensor([1.5, 3.0]))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_every_optimiser_lowers_a_loss_under_the_schedules_rate(name):
    torch.manual_seed(0)
    network, inputs = nn.Linear(4, 1, bias=False), torch.randn(32, 4)
    optimizer = build_optimizer(network, OptimizerSettings(name=name))
    losses = []
    for _ in range(30):
        for group in optimizer.param_groups:
            group["lr"] = {"adamw": 0.05, "sgd": 0.05, "lars": 50.0}[name]
            group["weight_decay"] = 1e-4
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
