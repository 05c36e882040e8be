"""Attention of short sequences as Triton kernels, straight from and to matrices of tokens.

Person crops have few tokens: 129 of a 256x128 crop, 33 of a small one. Their attention costs
little arithmetic, and general kernels spend most of the time on copies: to cut queries, keys and
values out, to put the groups of sizes together, to stack the three gradients. Here a program reads
an image's rows from (N, 3 D) where they lie and writes to where they belong.

Softmax runs along a sequence block by block, and is found anew in the backward pass (as in
FlashAttention, Dao et al., arXiv 2205.14135).
"""

import triton
import triton.language as tl


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
    for block in tl.static_range(WHOLE + (REST > 0)):
        top, total, seen = _look(
            query, keys, values, first, block * BLOCK, length, stride, scale, top, total, seen,
            BLOCK if block < WHOLE else REST, DIM,
        )  # fmt: skip
    _put(seen / total[:, None], outputs, first_out, start, num_queries, width, SIZE, DIM)
    row = start + tl.arange(0, SIZE)
    places = (first_out + row) * heads + head
    tl.store(normalisers + places, top + tl.log2(total), mask=row < num_queries)


@triton.jit
def attention_forward(
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
    for block in tl.static_range(WHOLE + (REST > 0)):
        found = _query_step(
            query, keys, values, gradient, normaliser, delta, first, block * BLOCK, length, stride,
            scale, found, BLOCK if block < WHOLE else REST, DIM,
        )  # fmt: skip
    _put(found * natural_scale, found_queries, first, start, num_queries, stride, SIZE, DIM)


@triton.jit
def attention_backward_queries(
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
    for block in tl.static_range(WHOLE_Q + (REST_Q > 0)):
        found_key, found_value = _key_step(
            queries, key, value, gradients, normalisers, deltas, first, first_out, block * BLOCK,
            key_exists, num_queries, stride, width, heads, head, scale, found_key, found_value,
            BLOCK if block < WHOLE_Q else REST_Q, DIM,
        )  # fmt: skip
    _put(found_key * natural_scale, found_keys, first, start, length, stride, SIZE, DIM)
    _put(found_value, found_values, first, start, length, stride, SIZE, DIM)


@triton.jit
def attention_backward_keys(
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
