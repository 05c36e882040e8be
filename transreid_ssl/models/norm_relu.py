"""Instance or batch norm and ReLU of a convolution stem in one operation, forward and backward.

Both norms subtract a mean and divide by a deviation of each channel; they differ in which images
share them. So the moments of every image are found once, averaged over the images that normalise
together (an instance norm's over none), and the map is then read and written once. Written as
usual, with two halves cut out and put together, the map is read and written more than twice as
often and kept once more. That average is its own transpose, so the gradient needs nothing else.

On a GPU the passes over the map are Triton's (``norm_kernels``), elsewhere PyTorch's; the
arithmetic between them, on one number an image and channel, is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from transreid_ssl.models.gpu import has_triton
from transreid_ssl.models.norms import average_of, move_statistics


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the second (Pan et al., 2018).

    Instance norm removes the style of a camera, batch norm keeps what tells people apart.
    Input and output: (B, C, H, W). The attribute names are those of the published checkpoints.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.half = channels // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.half)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.IN(x[:, : self.half]), self.BN(x[:, self.half :])), dim=1)


def norm_relu(
    x: Tensor, norm: IBN | _BatchNorm, layer: Callable[[Tensor], Tensor], patch: int = 0
) -> Tensor:
    """``layer(relu(norm(x)))`` of maps (B, C, H, W), in the precision of ``x``; the statistics in
    float32 or better. Running statistics move as the norm itself moves them.

    Evaluation and half precision on a CPU are PyTorch's own norms. On a GPU what ``layer`` keeps of
    its input is found anew from ``x`` in the backward pass, which costs a pass over the map and
    spares to hold it twice.

    Args:
        layer: What comes next, such as a convolution.
        patch: On a GPU, ``layer`` takes patches of so many pixels as rows instead of maps,
            (B, H / patch, W / patch, patch · patch · C); 0: maps.
    """
    on_gpu = runs_kernels(x)
    here = norm.training and x.dtype in (torch.float32, torch.float64)
    # The compiler fuses by itself; and the norms' own words refuse a channel of a single value.
    if torch.compiler.is_compiling() or x.shape[2:].numel() == 1 or not (on_gpu or here):
        return layer(F.relu(norm(x)))
    if isinstance(norm, IBN):
        weight = torch.cat((norm.IN.weight, norm.BN.weight))
        bias = torch.cat((norm.IN.bias, norm.BN.bias))
        sharing = _Sharing(norm.BN, norm.half)
    else:
        weight, bias, sharing = norm.weight, norm.bias, _Sharing(norm, 0)
    if not on_gpu:
        return layer(_NormReLU.apply(x, weight, bias, sharing, TorchPasses, 0)[0])
    passes = _gpu_passes()
    x = passes.arranged(x)
    output, scale, shift = _NormReLU.apply(x, weight, bias, sharing, passes, patch)
    if not torch.is_grad_enabled():
        return layer(output)
    place, anew = output.data_ptr(), _Anew(x.detach(), scale, shift, passes, patch)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda kept: (anew, kept.shape) if kept.data_ptr() == place else kept, _found
    ):
        return layer(output)


def runs_kernels(x: Tensor) -> bool:
    """Whether maps like this one go through Triton's kernels."""
    compiling = torch.compiler.is_compiling()
    return x.is_cuda and x.dtype != torch.float64 and not compiling and has_triton()


@dataclass(frozen=True)
class _Anew:
    """What gives an output of ``_NormReLU`` once more."""

    x: Tensor
    scale: Tensor
    shift: Tensor
    passes: type
    patch: int


def _found(kept: Tensor | tuple[_Anew, torch.Size]) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    anew, shape = kept
    return anew.passes.apply(anew.x, anew.scale, anew.shift, anew.patch).reshape(shape)


@dataclass(frozen=True)
class _Sharing:
    """Which images share statistics, of channels from ``half`` on; below, each has its own."""

    norm: _BatchNorm
    half: int

    def statistics(self, mean: Tensor, variance: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """What each image is normalised with, (B, C) both, from its own moments."""
        norm, half, average = self.norm, self.half, average_of(self.norm)
        if average is None:
            together = norm.running_mean.expand(len(mean), -1)
            spread = norm.running_var.expand(len(mean), -1)
        else:
            own = mean[:, half:]
            together = average(own)
            spread = average(variance[:, half:] + (own - together).square())
            move_statistics(norm, together, spread, pixels)
        return (
            torch.cat((mean[:, :half], together), dim=1),
            torch.cat((variance[:, :half], spread), dim=1),
        )

    def average(self, values: Tensor) -> Tensor:
        """What of a gradient's sums (B, C) comes back to each image through the statistics."""
        own, shared, average = values[:, : self.half], values[:, self.half :], average_of(self.norm)
        return torch.cat((own, shared * 0 if average is None else average(shared)), dim=1)


class _NormReLU(torch.autograd.Function):
    """x -> relu(scale * x + shift), scale and shift; these depend on the moments of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, sharing: _Sharing, passes: type,
        patch: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        mean, variance = sharing.statistics(*passes.moments(x), x.shape[2:].numel())
        inverse = (variance + sharing.norm.eps).rsqrt()
        scale = weight * inverse
        shift = bias - mean * scale
        output = passes.apply(x, scale, shift, patch)
        kept = output if passes.keeps_output else None
        ctx.save_for_backward(x, mean, inverse, scale, shift, kept)
        ctx.sharing, ctx.passes, ctx.patch = sharing, passes, patch
        ctx.mark_non_differentiable(scale, shift)
        return output, scale, shift

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _scale: Tensor, _shift: Tensor) -> tuple:
        """With n pixels, normalised map z and the gradient g of what ReLU lets through:
        ``scale * (g - average(sum(g)) / n - z * average(sum(g * z)) / n)``."""
        x, mean, inverse, scale, shift, output = ctx.saved_tensors
        passes, patch, pixels = ctx.passes, ctx.patch, x.shape[2:].numel()
        if passes.keeps_output:
            gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        else:
            gradient = gradient.contiguous() if patch else passes.arranged(gradient)
        total, product = passes.sums(gradient, x, scale, shift, mean, inverse, patch)
        through_mean = ctx.sharing.average(total) / pixels
        through_spread = ctx.sharing.average(product) / pixels * inverse
        constant = scale * (through_spread * mean - through_mean)
        slope = -scale * through_spread
        found = passes.combine(gradient, x, scale, shift, slope, constant, patch)
        return found, product.sum(0), total.sum(0), None, None, None


class TorchPasses:
    """The passes over a map (B, C, H, W), in PyTorch; what they reduce is (B, C).

    ReLU's mask is applied to the gradient first, from the output, which the next layer keeps
    anyway. ``patch`` is not for them.
    """

    keeps_output = True

    @staticmethod
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each image's channels."""
        variance, mean = torch.var_mean(x, (2, 3), correction=0)
        return mean, variance

    @staticmethod
    def apply(x: Tensor, scale: Tensor, shift: Tensor, patch: int) -> Tensor:
        """``relu(scale * x + shift)``."""
        return torch.addcmul(_over_map(shift), x, _over_map(scale)).relu_()

    @staticmethod
    def sums(
        gradient: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, inverse: Tensor,
        patch: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Sums over each image: of the gradient, and of its product with the normalised map."""
        total = gradient.sum((2, 3))
        return total, ((gradient * x).sum((2, 3)) - mean * total) * inverse

    @staticmethod
    def combine(
        gradient: Tensor, x: Tensor, scale: Tensor, shift: Tensor, slope: Tensor,
        constant: Tensor, patch: int,
    ) -> Tensor:  # fmt: skip
        """``scale * gradient + slope * x + constant``."""
        found = torch.addcmul(_over_map(constant), x, _over_map(slope))
        return found.addcmul_(gradient, _over_map(scale))


def _over_map(values: Tensor) -> Tensor:
    return values[:, :, None, None]


def _gpu_passes() -> type:
    from transreid_ssl.models.norm_kernels import TritonPasses  # Triton is not everywhere

    return TritonPasses
