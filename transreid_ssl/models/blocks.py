"""Transformer blocks that run images of several sizes together.

All layers of a block but its attention treat tokens one by one. So the tokens of all crops of a
batch pass them as one matrix (N, D), which reads each weight once and keeps kernels large, and only
the attention looks at the groups of equally large images (as in DINOv3, arXiv 2508.10104).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.nn import functional as F

from transreid_ssl.models.gpu import has_triton

Sizes = tuple[tuple[int, int], ...]
"""(images, tokens of an image) of each group, in the order of the rows of a matrix of tokens."""
Kept = tuple[Tensor | None, Tensor | None]
"""What the outputs of a block's attention and MLP are multiplied by, (rows, 1) each; None: 1."""


Look = Callable[[Attention, Tensor, Sizes, int | None], Tensor]
"""What tokens see of their own image: from queries, keys and values (N, 3 D) to (N, D), or to the
rows of the ``leading`` tokens of each image."""


class PackedBlock(Block):
    """timm's block, with a way in for groups of images of several sizes."""

    attn: Attention

    def forward_packed(
        self,
        tokens: Tensor,
        sizes: Sizes,
        kept: Kept = (None, None),
        leading: int | None = None,
        look: Look | None = None,
    ) -> Tensor:
        """Tokens (N, D) to tokens (N, D), or to the ``leading`` tokens of each image alone.

        Args:
            kept: Stochastic depth, which is given and not drawn here, so that compiled code is the
                same for every block; each has as many rows as its branch.
            leading: Only these tokens of an image are looked at afterwards.
            look: The attention itself, as ``best_look`` chose it.
        """
        look, attention = look or _look_by_torch, self.attn
        seen = look(attention, attention.qkv(self.norm1(tokens)), sizes, leading)
        seen = getattr(attention, "norm", nn.Identity())(seen)
        attended = attention.proj_drop(attention.proj(seen))
        if leading:
            tokens = torch.cat(
                [group[:, :leading].flatten(0, 1) for group in unpack(tokens, sizes)]
            )
        tokens = tokens + _times(self.ls1(attended), kept[0])
        return tokens + _times(self.ls2(self.mlp(self.norm2(tokens))), kept[1])

    def run(self, program: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """``program(self, …)``: ``forward_packed`` as it is or compiled. Where weights are sharded,
        this block's are put together for as long as it takes."""
        return program(self, *arguments)


@functools.cache
def compiled_block() -> Callable[..., Tensor]:
    """``PackedBlock.forward_packed``, compiled: one program for all blocks of all networks."""
    return torch.compile(PackedBlock.forward_packed, dynamic=False)


def _times(branch: Tensor, kept: Tensor | None) -> Tensor:
    return branch if kept is None else branch * kept


def best_look(attention: Attention, tokens: Tensor) -> Look:
    """How attention is best computed for these tokens, in the precision that autocast has now."""
    if tokens.device.type != "cuda" or not has_triton():
        return _look_by_torch
    dtype = tokens.dtype
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    width = attention.qkv.out_features // (3 * attention.num_heads)
    normed = not isinstance(attention.q_norm, nn.Identity)
    dropped = attention.training and attention.attn_drop.p > 0
    half = dtype in (torch.float16, torch.bfloat16)
    fits = half and width in (16, 32, 64, 128) and not normed and not dropped
    return _look_by_kernels if fits else _look_by_torch


def _look_by_kernels(
    attention: Attention, qkv: Tensor, sizes: Sizes, leading: int | None
) -> Tensor:
    from transreid_ssl.models.packed_attention import packed_attention

    flat = [number for size in sizes for number in size]
    return packed_attention(qkv, flat, attention.num_heads, leading or 0)[0]


def _look_by_torch(attention: Attention, qkv: Tensor, sizes: Sizes, leading: int | None) -> Tensor:
    """Fused but on a CPU, where the backward pass of fused attention takes up to twice the time."""
    outputs = []
    for group in unpack(qkv, sizes):
        parts = group.unflatten(-1, (3, attention.num_heads, -1))  # (B, T, 3, H, d)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys = attention.q_norm(queries[:, :, :leading]), attention.k_norm(keys)
        if qkv.device.type == "cpu":
            weights = (queries * attention.scale) @ keys.transpose(-2, -1)
            seen = attention.attn_drop(weights.softmax(dim=-1)) @ values
        else:
            rate = attention.attn_drop.p if attention.training else 0.0
            seen = F.scaled_dot_product_attention(queries, keys, values, dropout_p=rate)
        outputs.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def pack(groups: Sequence[Tensor]) -> Tensor:
    """Groups of tokens (B, T, D) as one matrix (N, D)."""
    rows = [group.flatten(0, 1) for group in groups]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def unpack(tokens: Tensor, sizes: Sizes) -> list[Tensor]:
    """The groups (B, T, D) of a matrix of tokens (N, D)."""
    parts = tokens.split([images * length for images, length in sizes])
    return [part.unflatten(0, size) for part, size in zip(parts, sizes)]


def draw_paths(
    blocks: Sequence[PackedBlock], sizes: Sizes, device: torch.device, leading: int | None
) -> list[Kept]:
    """The stochastic depth of each block, as ``forward_packed`` takes it.

    That of all blocks is drawn at once, on a GPU with a few operations.

    Args:
        leading: How many tokens of an image come out of the last block; None: all.
    """
    paths = [path for block in blocks for path in (block.drop_path1, block.drop_path2)]
    shares = tuple(map(_kept_share, paths))
    if min(shares) == 1:
        return [(None, None)] * len(blocks)
    drawn = _draw(shares, tuple(images for images, _ in sizes), device)
    rows = list(_over_tokens(drawn, sizes))
    if leading:
        rows[-2:] = _over_tokens(drawn[-2:], [(images, leading) for images, _ in sizes])
    kept = [None if share == 1 else row for share, row in zip(shares, rows, strict=True)]
    return list(zip(kept[::2], kept[1::2], strict=True))


def _kept_share(path: nn.Module) -> float:
    drops = isinstance(path, DropPath) and path.training
    return 1 - path.drop_prob if drops else 1.0


def _draw(shares: Sequence[float], images: tuple[int, ...], device: torch.device) -> Tensor:
    """For each share a row of what images are multiplied by, 0 or 1 / share: (shares, images)."""
    if device.type == "cuda":
        return _draw_at_once(shares, images, device)
    # Size by size and block by block, as if each passed the network by itself: the random numbers
    # of a run on a CPU are those that it always had.
    drawn = torch.ones(len(shares), sum(images), device=device)
    for columns in drawn.split(images, dim=1):
        for row, share in zip(columns, shares):
            if share < 1:
                row.bernoulli_(share).div_(share)
    return drawn


def _draw_at_once(shares: Sequence[float], images: tuple[int, ...], device: torch.device) -> Tensor:
    """The same with a few operations. Shares are not uploaded, for which the host would wait."""
    drawn = torch.rand(len(shares), sum(images), device=device)
    rows = drawn.unbind()
    torch._foreach_add_(rows, shares)
    drawn.floor_()
    torch._foreach_div_(rows, shares)
    return drawn


def _over_tokens(drawn: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """From a number an image, (K, images), to one a token: (K, N, 1)."""
    parts = drawn.split([images for images, _ in sizes], dim=1)
    tokens = [
        part.unsqueeze(-1).expand(-1, -1, length).flatten(1)
        for part, (_, length) in zip(parts, sizes)
    ]
    return torch.cat(tokens, dim=1).unsqueeze(-1)
