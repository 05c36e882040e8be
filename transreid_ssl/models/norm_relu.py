"""A norm of a convolution stem, its ReLU and the layer that comes next."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from transreid_ssl.models.gpu import has_triton
from transreid_ssl.models.ibn import IBN


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
    if not runs_kernels(x):
        maps = F.relu(norm(x))
        return layer(as_rows(maps, patch) if patch else maps)
    from transreid_ssl.models.fused_norm import fused_norm_relu  # Triton is not everywhere

    return fused_norm_relu(x, norm, layer, patch)


def as_rows(maps: Tensor, size: int) -> Tensor:
    """Patches that do not overlap as rows: (B, C, H, W) to (B, rows, columns, size · size · C)."""
    return rearrange(maps, "b c (h p) (w q) -> b h w (p q c)", p=size, q=size)


def runs_kernels(x: Tensor) -> bool:
    """Whether maps like this one go through Triton's kernels."""
    alone = x.shape[2:].numel() == 1  # the norms' own words refuse a channel of a single value
    compiling = torch.compiler.is_compiling()
    return x.is_cuda and x.dtype != torch.float64 and not alone and not compiling and has_triton()
