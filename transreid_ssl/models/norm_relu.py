"""A norm of a convolution stem, its ReLU and the layer that comes next."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from transreid_ssl.models.gpu import has_triton


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
    """``layer(relu(norm(x)))`` of maps (B, C, H, W).

    On a GPU norm and ReLU are one operation (``fused_norm``); on a CPU, where that gains nothing
    (0.8 to 1.03 times as fast as PyTorch's norms), and where it is compiled, they are not.

    Args:
        layer: What comes next, such as a convolution.
        patch: On a GPU, ``layer`` takes patches of so many pixels as rows instead of maps,
            (B, H / patch, W / patch, patch · patch · C); 0: maps.
    """
    # The norms' own words refuse a channel of a single value.
    if not runs_kernels(x) or x.shape[2:].numel() == 1:
        return layer(F.relu(norm(x)))
    from transreid_ssl.models.fused_norm import fused_norm_relu  # Triton is not everywhere

    return fused_norm_relu(x, norm, layer, patch)


def runs_kernels(x: Tensor) -> bool:
    """Whether maps like this one go through Triton's kernels."""
    compiling = torch.compiler.is_compiling()
    return x.is_cuda and x.dtype != torch.float64 and not compiling and has_triton()
