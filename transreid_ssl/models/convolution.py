"""Convolutions whose gradients can be relied on in every precision."""

import torch
from torch import Tensor, nn


class Convolution(nn.Conv2d):
    """A convolution that a CPU computes in float32 where its map is narrower than its kernel.

    In bf16, oneDNN's backward pass of a 3x3 kernel with stride 2 over a map one pixel wide reads
    memory that was never written (torch 2.14, CPUs with AVX-512 or AMX), so that gradients are
    random or NaN. Every map is left out that is one pixel wide or high, or where some of the kernel
    can never lie on the map: they are small, and float32 costs nothing there.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        narrow = min(input.shape[-2:]) < max(2, *self.kernel_size)
        if input.device.type != "cpu" or not narrow or not torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            return super()._conv_forward(input.float(), weight, bias)


def with_reliable_convolutions(model: nn.Module) -> nn.Module:
    """Let every convolution of ``model``, whoever's layer it is part of, be a ``Convolution``."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Convolution  # its weights and settings stay as they are
    return model
