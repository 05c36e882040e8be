"""Another start for a vision transformer's weights: MoCo v3's (arXiv 2104.02057, section 4)."""

import math

import torch
from torch import Tensor, nn

from transreid_ssl.models.vit import ReIDViT


@torch.no_grad()
def draw_xavier(model: ReIDViT) -> None:
    """Draw linear layers and the patches' projection anew, Xavier-uniform, and zero their biases.

    Queries, keys and values are three layers, though one matrix holds them, and the projection is
    linear in a patch's values, though it is a convolution: for a ViT-S its weights then have a
    standard deviation of 0.042. The class token starts at almost nothing. A stem, norms and
    positions are left as they are.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            _xavier(module, fan_out=module.out_features // (3 if name.endswith("qkv") else 1))
    _xavier(model.patch_embed.proj, fan_out=model.patch_embed.proj.out_channels)
    nn.init.normal_(model.cls_token, std=1e-6)


def _xavier(layer: nn.Linear | nn.Conv2d, fan_out: int) -> None:
    fan_in = layer.weight[0].numel()
    bound = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def fix_sincos_positions(model: ReIDViT) -> None:
    """Make the position embeddings fixed waves; those of tokens without a place are 0."""
    waves = sincos_positions(model.patch_embed.grid_size, model.pos_embed.shape[-1])
    model.pos_embed.zero_()
    model.pos_embed[:, -waves.shape[1] :] = waves
    model.pos_embed.requires_grad_(False)


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines of a patch's row and of its column, float32 (1, rows * columns, dim).

    A quarter of the values each: sines and cosines of the row, then of the column, at wavelengths
    from 2 pi to almost 20,000 pi. The authors' program gives the same for square grids, which it
    was written for; of others it mixes rows and columns up.

    Raises:
        ValueError: ``dim`` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim {dim}: must be a multiple of 4")
    frequencies = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    rows, columns = (torch.arange(size)[:, None] * frequencies for size in grid)
    row_waves, column_waves = (torch.cat((x.sin(), x.cos()), dim=1) for x in (rows, columns))
    return torch.cat(
        (row_waves[:, None].expand(-1, grid[1], -1), column_waves[None].expand(grid[0], -1, -1)),
        dim=2,
    ).flatten(0, 1)[None]
