"""Instance or batch norm and ReLU of a convolution stem in one operation, forward and backward.

Both norms subtract a mean and divide by a deviation of each channel; they differ in which images
share them. So the moments of every image are found once, averaged over the images that normalise
together (an instance norm's over none), and the map is then read and written once. Written as
usual, with two halves cut out and put together, the map is read and written more than twice as
often and kept once more. As a matrix over images, that average is its own transpose, so the
gradient needs nothing else.

The passes over the map are those of ``norm_kernels``; here are numbers an image and channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from transreid_ssl.models import norm_kernels as kernels
from transreid_ssl.models.ibn import IBN
from transreid_ssl.models.norms import average_of, move_statistics


def fused_norm_relu(
    x: Tensor, norm: IBN | _BatchNorm, layer: Callable[[Tensor], Tensor], patch: int = 0
) -> Tensor:
    """See ``norm_relu``. In the precision of ``x``, the statistics in float32; running statistics
    move as the norm itself moves them.

    What ``layer`` keeps of its input is found anew from ``x`` in the backward pass, which costs a
    pass over the map and spares to hold it twice.
    """
    if isinstance(norm, IBN):
        weight = torch.cat((norm.IN.weight, norm.BN.weight))
        bias = torch.cat((norm.IN.bias, norm.BN.bias))
        sharing = _Sharing(norm.BN, norm.split, average_of(norm.BN))
    else:
        weight, bias = norm.weight, norm.bias
        sharing = _Sharing(norm, 0, average_of(norm))
    x = channels_last(x)
    output, scale, shift = _NormReLU.apply(x, weight, bias, sharing, patch)
    if not torch.is_grad_enabled():
        return layer(output)
    place, anew = output.data_ptr(), _Anew(x.detach(), scale, shift, patch)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda kept: (anew, kept.shape) if kept.data_ptr() == place else kept, _found
    ):
        return layer(output)


def channels_last(x: Tensor) -> Tensor:
    """The map as the kernels want it in memory."""
    return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class _Anew:
    """What gives an output of ``_NormReLU`` once more."""

    x: Tensor
    scale: Tensor
    shift: Tensor
    patch: int


def _found(kept: Tensor | tuple[_Anew, torch.Size]) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    anew, shape = kept
    return kernels.apply(anew.x, anew.scale, anew.shift, anew.patch).reshape(shape)


@dataclass(frozen=True)
class _Sharing:
    """Which images share statistics, of channels from ``half`` on; below, each has its own.

    ``average`` is ``norms.average_of`` as it was in the forward pass: a norm may be frozen, or
    evaluated, before its backward pass.
    """

    norm: _BatchNorm
    half: int
    average: Callable[[Tensor], Tensor] | None

    def statistics(self, mean: Tensor, variance: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """What each image is normalised with, (B, C) both, from its own moments."""
        norm, half = self.norm, self.half
        if self.average is None:
            together = norm.running_mean.expand(len(mean), -1)
            spread = norm.running_var.expand(len(mean), -1)
        else:
            own = mean[:, half:]
            together = self.average(own)
            spread = self.average(variance[:, half:] + (own - together).square())
            move_statistics(norm, together, spread, pixels)
        return (
            torch.cat((mean[:, :half], together), dim=1),
            torch.cat((variance[:, :half], spread), dim=1),
        )

    def transposed(self, values: Tensor) -> Tensor:
        """What of a gradient's sums (…, B, C) comes back to each image through the statistics."""
        own, shared = values[..., : self.half], values[..., self.half :]
        if self.average is None:
            shared = torch.zeros_like(shared)
        else:
            # One average of all: between processes every call costs as much, however little it is.
            images = shared.movedim(-2, 0)
            shared = self.average(images.flatten(1)).unflatten(1, images.shape[1:]).movedim(0, -2)
        return torch.cat((own, shared), dim=-1)


class _NormReLU(torch.autograd.Function):
    """x -> relu(scale * x + shift), scale and shift; these depend on the moments of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, sharing: _Sharing, patch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        if sharing.average is None and not sharing.half:  # nobody asks what this map's are
            moments = x.new_empty((2, *x.shape[:2]), dtype=torch.float32)
        else:
            moments = kernels.moments(x)
        mean, variance = sharing.statistics(*moments, x.shape[2:].numel())
        inverse = (variance + sharing.norm.eps).rsqrt()
        scale = weight * inverse
        shift = bias - mean * scale
        output = kernels.apply(x, scale, shift, patch)
        ctx.save_for_backward(x, mean, inverse, scale, shift)
        ctx.sharing, ctx.patch = sharing, patch
        ctx.mark_non_differentiable(scale, shift)
        return output, scale, shift

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _scale: Tensor, _shift: Tensor) -> tuple:
        """With n pixels, normalised map z and the gradient g of what ReLU lets through:
        ``scale * (g - average(sum(g)) / n - z * average(sum(g * z)) / n)``."""
        x, mean, inverse, scale, shift = ctx.saved_tensors
        patch, pixels = ctx.patch, x.shape[2:].numel()
        gradient = gradient.contiguous() if patch else channels_last(gradient)
        total, product = kernels.sums(gradient, x, scale, shift, mean, inverse, patch)
        through_mean, through_spread = (
            ctx.sharing.transposed(torch.stack((total, product))) / pixels
        )
        through_spread = through_spread * inverse
        constant = scale * (through_spread * mean - through_mean)
        slope = -scale * through_spread
        found = kernels.combine(gradient, x, scale, shift, slope, constant, patch)
        return found, product.sum(0), total.sum(0), None, None
