"""Attention of short sequences as an operation of PyTorch: the ways into ``attention_kernels``."""

import torch
import triton
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from transreid_ssl.models import attention_kernels as kernels

BLOCK = 64
"""Queries, and keys, of a step. What is left over of a sequence has a block of its own size."""
_LOG2_E = 1.4426950408889634


def _blocks(length: int) -> tuple[int, int, int]:
    """Whole blocks of a sequence, the size of the block for what is left (0: nothing is), and how
    many blocks that makes. Matrix units want 16 rows or more."""
    whole, rest = divmod(length, BLOCK)
    size = max(16, triton.next_power_of_2(rest)) if rest else 0
    return whole, size, whole + (rest > 0)


def _groups(sizes: list[int], leading: int) -> list[tuple[int, int, int, int, int]]:
    """Of each group (images, tokens) of a flat list: images, tokens, queries, and its first row in
    the matrix of tokens and in that of the outputs."""
    groups, row, row_out = [], 0, 0
    for images, length in zip(sizes[::2], sizes[1::2], strict=True):
        queries = leading or length
        groups.append((images, length, queries, row, row_out))
        row, row_out = row + images * length, row_out + images * queries
    return groups


@library.custom_op("transreid_ssl::packed_attention", mutates_args=())
def packed_attention(
    qkv: Tensor, sizes: list[int], heads: int, leading: int
) -> tuple[Tensor, Tensor]:
    """What tokens see of their own image, and each row's logsumexp of scores, of base 2.

    Args:
        qkv: Queries, keys and values of all tokens, (N, 3 D), half precision.
        sizes: Images, and tokens of an image, of one group after the other.
        heads: Of width D / heads, which is a power of two from 16 on.
        leading: So many tokens of an image ask; 0: all.

    Returns:
        (rows, D) and float32 (rows, heads); a row for each token that asks.
    """
    qkv, width = qkv.contiguous(), qkv.shape[1] // 3
    groups, dim = _groups(sizes, leading), width // heads
    rows = sum(images * queries for images, _, queries, _, _ in groups)
    outputs = qkv.new_empty((rows, width))
    normalisers = qkv.new_empty((rows, heads), dtype=torch.float32)
    for images, length, queries, row, row_out in groups:
        (whole_q, rest_q, blocks), (whole, rest, _) = _blocks(queries), _blocks(length)
        with torch.cuda.device_of(qkv):
            kernels.attention_forward[images * heads, blocks](
                qkv, outputs, normalisers, row, row_out, length, queries, heads,
                dim**-0.5 * _LOG2_E, WHOLE_Q=whole_q, REST_Q=rest_q, WHOLE=whole, REST=rest,
                BLOCK=BLOCK, DIM=dim,
            )  # fmt: skip
    return outputs, normalisers


@packed_attention.register_fake
def _(qkv: Tensor, sizes: list[int], heads: int, leading: int) -> tuple[Tensor, Tensor]:
    rows = sum(images * queries for images, _, queries, _, _ in _groups(sizes, leading))
    outputs = qkv.new_empty((rows, qkv.shape[1] // 3))
    return outputs, qkv.new_empty((rows, heads), dtype=torch.float32)


@library.custom_op("transreid_ssl::packed_attention_backward", mutates_args=())
def _packed_attention_backward(
    gradient: Tensor, qkv: Tensor, outputs: Tensor, normalisers: Tensor, sizes: list[int],
    heads: int, leading: int,
) -> Tensor:  # fmt: skip
    gradient, qkv = gradient.contiguous(), qkv.contiguous()
    dim = qkv.shape[1] // 3 // heads
    scales = dim**-0.5 * _LOG2_E, dim**-0.5
    # Queries of tokens that did not ask have no gradient.
    found = torch.zeros_like(qkv) if leading else torch.empty_like(qkv)
    deltas = torch.empty_like(normalisers)
    for images, length, queries, row, row_out in _groups(sizes, leading):
        (whole_q, rest_q, blocks_q), (whole, rest, blocks) = _blocks(queries), _blocks(length)
        shape = {"WHOLE_Q": whole_q, "REST_Q": rest_q, "WHOLE": whole, "REST": rest}
        shape |= {"BLOCK": BLOCK, "DIM": dim}
        with torch.cuda.device_of(qkv):
            kernels.attention_backward_queries[images * heads, blocks_q](
                qkv, outputs, gradient, normalisers, deltas, found, row, row_out, length, queries,
                heads, *scales, **shape,
            )  # fmt: skip
            kernels.attention_backward_keys[images * heads, blocks](
                qkv, gradient, normalisers, deltas, found, row, row_out, length, queries, heads,
                *scales, **shape,
            )  # fmt: skip
    return found


@_packed_attention_backward.register_fake
def _(
    gradient: Tensor, qkv: Tensor, outputs: Tensor, normalisers: Tensor, sizes: list[int],
    heads: int, leading: int,
) -> Tensor:  # fmt: skip
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _keep(ctx, inputs, output) -> None:
    qkv, ctx.sizes, ctx.heads, ctx.leading = inputs
    ctx.save_for_backward(qkv, *output)


def _differentiate(ctx, gradient: Tensor, _) -> tuple[Tensor, None, None, None]:
    found = _packed_attention_backward(
        gradient, *ctx.saved_tensors, ctx.sizes, ctx.heads, ctx.leading
    )
    return found, None, None, None


packed_attention.register_autograd(_differentiate, setup_context=_keep)


# The compiler weighs what to compute again by this; of what it does not know it thinks that it is
# free.
@register_flop_formula(torch.ops.transreid_ssl.packed_attention)
def _flops(qkv_shape, sizes, heads, leading, *_, out_shape=None, **__) -> int:
    return 4 * _pairs(sizes, leading) * (qkv_shape[1] // 3)


@register_flop_formula(torch.ops.transreid_ssl.packed_attention_backward)
def _backward_flops(
    _gradient, qkv_shape, _outputs, _normalisers, sizes, heads, leading, *_, out_shape=None, **__
) -> int:
    return 14 * _pairs(sizes, leading) * (qkv_shape[1] // 3)


def _pairs(sizes: list[int], leading: int) -> int:
    """Of a query and a key that meet, in all images."""
    return sum(
        images * length * queries for images, length, queries, _, _ in _groups(sizes, leading)
    )
