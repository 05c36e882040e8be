"""Attention of short sequences as Triton kernels, straight from and to matrices of tokens.

Person crops have few tokens: 129 of a 256x128 crop, 33 of a small one. Their attention costs
little arithmetic, and general kernels spend most of the time on copies: to cut queries, keys and
values out, to put the groups of sizes together, to stack the three gradients. Here a program reads
an image's rows from (N, 3 D) where they lie and writes to where they belong.

Softmax runs along a sequence block by block, and is found anew in the backward pass (as in
FlashAttention, Dao et al., arXiv 2205.14135).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

BLOCK = 64
"""Queries, and keys, of a step. What is left over of a sequence has a block of its own size."""
_LOG2_E = 1.4426950408889634


@triton.jit
def _rows(base, first, start, count, stride, SIZE: tl.constexpr, DIM: tl.constexpr):
    """A block of rows of a matrix, (SIZE, DIM): rows ``first + start …``, zeros from ``count``."""
    row = start + tl.arange(0, SIZE)
    places = (first + row).to(tl.int64)[:, None] * stride + tl.arange(0, DIM)[None, :]
    return tl.load(base + places, mask=(row < count)[:, None], other=0.0)


@triton.jit
def _put(values, base, first, start, count, stride, SIZE: tl.constexpr, DIM: tl.constexpr):
    row = start + tl.arange(0, SIZE)
    places = (first + row).to(tl.int64)[:, None] * stride + tl.arange(0, DIM)[None, :]
    tl.store(base + places, values.to(base.dtype.element_ty), mask=(row < count)[:, None])


@triton.jit
def _look(
    query, keys, values, first, start, length, stride, scale, top, total, seen,
    SIZE: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Let a block of queries look at one more block of keys; scores are of base 2."""
    key = _rows(keys, first, start, length, stride, SIZE, DIM)
    value = _rows(values, first, start, length, stride, SIZE, DIM)
    scores = tl.dot(query, tl.trans(key)) * scale
    scores = tl.where((start + tl.arange(0, SIZE) < length)[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    shrunk = tl.exp2(top - higher)
    total = total * shrunk + tl.sum(weights, 1)
    seen = seen * shrunk[:, None] + tl.dot(weights.to(value.dtype), value)
    return higher, total, seen


@triton.jit
def _forward_block(
    queries, keys, values, outputs, normalisers, first, first_out, start, length, num_queries,
    stride, width, heads, head, scale,
    SIZE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr,
    DIM: tl.constexpr,
):  # fmt: skip
    query = _rows(queries, first, start, num_queries, stride, SIZE, DIM)
    top = tl.full((SIZE,), float("-inf"), tl.float32)
    total = tl.zeros((SIZE,), tl.float32)
    seen = tl.zeros((SIZE, DIM), tl.float32)
    for block in tl.static_range(WHOLE):
        top, total, seen = _look(
            query, keys, values, first, block * BLOCK, length, stride, scale, top, total, seen,
            BLOCK, DIM,
        )  # fmt: skip
    if REST > 0:
        top, total, seen = _look(
            query, keys, values, first, WHOLE * BLOCK, length, stride, scale, top, total, seen,
            REST, DIM,
        )  # fmt: skip
    _put(seen / total[:, None], outputs, first_out, start, num_queries, width, SIZE, DIM)
    row = start + tl.arange(0, SIZE)
    places = (first_out + row) * heads + head
    tl.store(normalisers + places, top + tl.log2(total), mask=row < num_queries)


@triton.jit
def _forward(
    qkv, outputs, normalisers, row, row_out, length, num_queries, heads, scale,
    WHOLE_Q: tl.constexpr, REST_Q: tl.constexpr, WHOLE: tl.constexpr, REST: tl.constexpr,
    BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head of one image."""
    image, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * DIM
    first, first_out = row + image * length, row_out + image * num_queries
    queries, block = qkv + head * DIM, tl.program_id(1)
    if block < WHOLE_Q:
        _forward_block(
            queries, queries + width, queries + 2 * width, outputs + head * DIM, normalisers,
            first, first_out, block * BLOCK, length, num_queries, 3 * width, width, heads, head,
            scale, BLOCK, WHOLE, BLOCK, REST, DIM,
        )  # fmt: skip
    elif REST_Q > 0:
        _forward_block(
            queries, queries + width, queries + 2 * width, outputs + head * DIM, normalisers,
            first, first_out, block * BLOCK, length, num_queries, 3 * width, width, heads, head,
            scale, REST_Q, WHOLE, BLOCK, REST, DIM,
        )  # fmt: skip


@triton.jit
def _weights_and_slopes(query, key, value, gradient, normaliser, delta, exists, scale):
    """Attention weights (queries, keys), and the gradient of their scores but for the scale."""
    scores = tl.dot(query, tl.trans(key)) * scale
    weights = tl.where(exists, tl.exp2(scores - normaliser[:, None]), 0.0)
    slopes = weights * (tl.dot(gradient, tl.trans(value)) - delta[:, None])
    return weights.to(query.dtype), slopes.to(query.dtype)


@triton.jit
def _query_step(
    query, keys, values, gradient, normaliser, delta, first, start, length, stride, scale, found,
    SIZE: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    key = _rows(keys, first, start, length, stride, SIZE, DIM)
    value = _rows(values, first, start, length, stride, SIZE, DIM)
    exists = (start + tl.arange(0, SIZE) < length)[None, :]
    _, slopes = _weights_and_slopes(query, key, value, gradient, normaliser, delta, exists, scale)
    return found + tl.dot(slopes, key)


@triton.jit
def _query_block(
    queries, keys, values, outputs, gradients, normalisers, deltas, found_queries, first, first_out,
    start, length, num_queries, stride, width, heads, head, scale, natural_scale,
    SIZE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr,
    DIM: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of queries; and what the other kernel needs of each row: the product
    of output and gradient."""
    query = _rows(queries, first, start, num_queries, stride, SIZE, DIM)
    output = _rows(outputs, first_out, start, num_queries, width, SIZE, DIM)
    gradient = _rows(gradients, first_out, start, num_queries, width, SIZE, DIM)
    delta = tl.sum(output.to(tl.float32) * gradient.to(tl.float32), 1)
    row = start + tl.arange(0, SIZE)
    places = (first_out + row) * heads + head
    tl.store(deltas + places, delta, mask=row < num_queries)
    normaliser = tl.load(normalisers + places, mask=row < num_queries, other=0.0)
    found = tl.zeros((SIZE, DIM), tl.float32)
    for block in tl.static_range(WHOLE):
        found = _query_step(
            query, keys, values, gradient, normaliser, delta, first, block * BLOCK, length, stride,
            scale, found, BLOCK, DIM,
        )  # fmt: skip
    if REST > 0:
        found = _query_step(
            query, keys, values, gradient, normaliser, delta, first, WHOLE * BLOCK, length, stride,
            scale, found, REST, DIM,
        )  # fmt: skip
    _put(found * natural_scale, found_queries, first, start, num_queries, stride, SIZE, DIM)


@triton.jit
def _backward_queries(
    qkv, outputs, gradients, normalisers, deltas, found, row, row_out, length, num_queries, heads,
    scale, natural_scale,
    WHOLE_Q: tl.constexpr, REST_Q: tl.constexpr, WHOLE: tl.constexpr, REST: tl.constexpr,
    BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * DIM
    first, first_out = row + image * length, row_out + image * num_queries
    queries, block = qkv + head * DIM, tl.program_id(1)
    if block < WHOLE_Q:
        _query_block(
            queries, queries + width, queries + 2 * width, outputs + head * DIM,
            gradients + head * DIM, normalisers, deltas, found + head * DIM, first, first_out,
            block * BLOCK, length, num_queries, 3 * width, width, heads, head, scale,
            natural_scale, BLOCK, WHOLE, BLOCK, REST, DIM,
        )  # fmt: skip
    elif REST_Q > 0:
        _query_block(
            queries, queries + width, queries + 2 * width, outputs + head * DIM,
            gradients + head * DIM, normalisers, deltas, found + head * DIM, first, first_out,
            block * BLOCK, length, num_queries, 3 * width, width, heads, head, scale,
            natural_scale, REST_Q, WHOLE, BLOCK, REST, DIM,
        )  # fmt: skip


@triton.jit
def _key_step(
    queries, key, value, gradients, normalisers, deltas, first, first_out, start, key_exists,
    num_queries, stride, width, heads, head, scale, found_key, found_value,
    SIZE: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    query = _rows(queries, first, start, num_queries, stride, SIZE, DIM)
    gradient = _rows(gradients, first_out, start, num_queries, width, SIZE, DIM)
    row = start + tl.arange(0, SIZE)
    known, places = row < num_queries, (first_out + row) * heads + head
    normaliser = tl.load(normalisers + places, mask=known, other=0.0)
    delta = tl.load(deltas + places, mask=known, other=0.0)
    exists = known[:, None] & key_exists[None, :]
    weights, slopes = _weights_and_slopes(
        query, key, value, gradient, normaliser, delta, exists, scale
    )
    found_value += tl.dot(tl.trans(weights), gradient)
    found_key += tl.dot(tl.trans(slopes), query)
    return found_key, found_value


@triton.jit
def _key_block(
    queries, keys, values, gradients, normalisers, deltas, found_keys, found_values, first,
    first_out, start, length, num_queries, stride, width, heads, head, scale, natural_scale,
    SIZE: tl.constexpr, WHOLE_Q: tl.constexpr, BLOCK: tl.constexpr, REST_Q: tl.constexpr,
    DIM: tl.constexpr,
):  # fmt: skip
    """The gradients of a block of keys and their values."""
    key = _rows(keys, first, start, length, stride, SIZE, DIM)
    value = _rows(values, first, start, length, stride, SIZE, DIM)
    key_exists = start + tl.arange(0, SIZE) < length
    found_key = tl.zeros((SIZE, DIM), tl.float32)
    found_value = tl.zeros((SIZE, DIM), tl.float32)
    for block in tl.static_range(WHOLE_Q):
        found_key, found_value = _key_step(
            queries, key, value, gradients, normalisers, deltas, first, first_out, block * BLOCK,
            key_exists, num_queries, stride, width, heads, head, scale, found_key, found_value,
            BLOCK, DIM,
        )  # fmt: skip
    if REST_Q > 0:
        found_key, found_value = _key_step(
            queries, key, value, gradients, normalisers, deltas, first, first_out,
            WHOLE_Q * BLOCK, key_exists, num_queries, stride, width, heads, head, scale,
            found_key, found_value, REST_Q, DIM,
        )  # fmt: skip
    _put(found_key * natural_scale, found_keys, first, start, length, stride, SIZE, DIM)
    _put(found_value, found_values, first, start, length, stride, SIZE, DIM)


@triton.jit
def _backward_keys(
    qkv, gradients, normalisers, deltas, found, row, row_out, length, num_queries, heads, scale,
    natural_scale,
    WHOLE_Q: tl.constexpr, REST_Q: tl.constexpr, WHOLE: tl.constexpr, REST: tl.constexpr,
    BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    width = heads * DIM
    first, first_out = row + image * length, row_out + image * num_queries
    queries, into, block = qkv + head * DIM, found + head * DIM, tl.program_id(1)
    if block < WHOLE:
        _key_block(
            queries, queries + width, queries + 2 * width, gradients + head * DIM, normalisers,
            deltas, into + width, into + 2 * width, first, first_out, block * BLOCK, length,
            num_queries, 3 * width, width, heads, head, scale, natural_scale,
            BLOCK, WHOLE_Q, BLOCK, REST_Q, DIM,
        )  # fmt: skip
    elif REST > 0:
        _key_block(
            queries, queries + width, queries + 2 * width, gradients + head * DIM, normalisers,
            deltas, into + width, into + 2 * width, first, first_out, block * BLOCK, length,
            num_queries, 3 * width, width, heads, head, scale, natural_scale,
            REST, WHOLE_Q, BLOCK, REST_Q, DIM,
        )  # fmt: skip


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


@torch.library.custom_op("transreid_ssl::packed_attention", mutates_args=())
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
            _forward[images * heads, blocks](
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


@torch.library.custom_op("transreid_ssl::packed_attention_backward", mutates_args=())
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
            _backward_queries[images * heads, blocks_q](
                qkv, outputs, gradient, normalisers, deltas, found, row, row_out, length, queries,
                heads, *scales, **shape,
            )  # fmt: skip
            _backward_keys[images * heads, blocks](
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
    pairs = sum(
        images * length * queries for images, length, queries, _, _ in _groups(sizes, leading)
    )
    return 4 * pairs * (qkv_shape[1] // 3)


@register_flop_formula(torch.ops.transreid_ssl.packed_attention_backward)
def _backward_flops(_gradient, qkv_shape, _outputs, _normalisers, *rest, **options) -> int:
    return 7 * _flops(qkv_shape, *rest, **options) // 2
