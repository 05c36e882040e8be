"""A norm and its ReLU in one operation are the two of PyTorch, with their statistics."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transreid_ssl.models import BlockNorm
from transreid_ssl.models.norm_relu import IBN, norm_relu

CHANNELS = 10


def in_blocks(norm):
    if isinstance(norm, IBN):
        norm.BN = BlockNorm(norm.BN, images=2, blocks=3)
        return norm
    return BlockNorm(norm, images=2, blocks=3)


NORMS = {
    "ibn": lambda: IBN(CHANNELS),
    "bn": lambda: nn.BatchNorm2d(CHANNELS),
    "ibn in blocks": lambda: in_blocks(IBN(CHANNELS)),
    "bn in blocks": lambda: in_blocks(nn.BatchNorm2d(CHANNELS)),
}


@pytest.fixture(params=NORMS)
def norm(request):
    torch.manual_seed(0)
    norm = NORMS[request.param]().double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def both_ways(norm, x, gradient):
    """(output, gradients of the map and the weights, buffers) of both, in turn."""
    for way in (norm_relu, lambda x, norm, layer: layer(F.relu(norm(x)))):
        one, given = copy.deepcopy(norm), x.clone().requires_grad_()
        output = way(given, one, nn.Identity())
        output.backward(gradient)
        weights = [parameter.grad for parameter in one.parameters()]
        yield [output.detach(), given.grad, *weights, *one.buffers()]


@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_running_statistics_are_those_of_the_two(norm, training):
    x = torch.randn(6, CHANNELS, 7, 5, dtype=torch.float64) * 3 + 1
    norm.train(training)
    for ours, theirs in zip(*both_ways(norm, x, torch.randn_like(x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_far_mean_costs_no_digits():
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(CHANNELS), torch.randn(4, CHANNELS, 9, 9) + 1000
    expected = F.relu(copy.deepcopy(norm).double()(x.double()))
    torch.testing.assert_close(
        norm_relu(x, norm, nn.Identity()).double(), expected, atol=1e-3, rtol=0
    )


def test_frozen_batch_norms_beside_training_instance_norms(norm):
    if not isinstance(norm, IBN):
        pytest.skip("has no second norm")
    norm.BN.eval()
    norm.BN.running_mean.normal_()
    x = torch.randn(6, CHANNELS, 7, 5, dtype=torch.float64)
    for ours, theirs in zip(*both_ways(norm, x, torch.randn_like(x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_single_value_a_channel_is_refused_as_by_the_norm():
    with pytest.raises(ValueError, match="more than 1 "):
        norm_relu(torch.randn(1, CHANNELS, 1, 1), nn.BatchNorm2d(CHANNELS), nn.Identity())
    one = torch.randn(1, CHANNELS, 3, 3)
    assert norm_relu(one, nn.BatchNorm2d(CHANNELS), nn.Identity()).shape == one.shape
