"""A decoder's layers on a GPU, as Triton kernels: what is between the matrix products, in as few
passes over memory as there can be. `triton_layers` and `device_copies` launch
them; attention's are in `triton_attention_kernels`.

Triton comes with torch's builds for GPUs; nothing but the GPU's runner imports this.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from tandem.engine.torch.triton_chain import await_inputs
from tandem.engine.torch.triton_jit import kernel


@kernel
def embed(
    token_ids,
    last_tokens,
    weight,
    out,
    norm,
    scaled,
    squares,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    SUMS: tl.constexpr,
    PADDED_SUMS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """A row of `weight` for each token. A token below 0 stands for that of row -1 - token of the
    step before, which only the device has yet. With `SUMS`, also that by `norm`, and the sum of its
    squares, as `multiply_few_rows` leaves them. `CHAINED`, the kernel behind may begin at once."""
    if CHAINED:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(token_ids + row).to(tl.int64)
    if token < 0:
        # A step that could not sample has left less than 0, and its own rows are given up.
        token = tl.maximum(tl.load(last_tokens - token - 1), 0)
    items = tl.arange(0, PADDED)
    there = items < SIZE
    x = tl.load(weight + token * SIZE + items, mask=there, other=0.0)
    tl.store(out + row * SIZE + items, x, mask=there)
    if SUMS > 0:
        wide = x.to(tl.float32)
        by = tl.load(norm + items, mask=there, other=0.0).to(tl.float32)
        tl.store(scaled + row * SIZE + items, (wide * by).to(x.dtype), mask=there)
        sums = tl.arange(0, PADDED_SUMS)
        all_in_one = tl.where(sums == 0, tl.sum(wide * wide, axis=0), 0.0)
        tl.store(squares + row * SUMS + sums, all_in_one, mask=sums < SUMS)


@triton.jit
def add_rms_norm(
    hidden,
    delta,
    weight,
    out,
    eps,
    HAS_DELTA: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
):
    """`hidden += delta`, and of that the root mean square norm."""
    row = tl.program_id(0).to(tl.int64)
    items = tl.arange(0, PADDED)
    there = items < SIZE
    x = tl.load(hidden + row * SIZE + items, mask=there, other=0.0)
    if HAS_DELTA:
        x = (x.to(tl.float32) + tl.load(delta + row * SIZE + items, mask=there, other=0.0)).to(
            x.dtype
        )
        tl.store(hidden + row * SIZE + items, x, mask=there)
    scaled = _rms_scaled(x.to(tl.float32), eps, SIZE)
    result = scaled.to(x.dtype).to(tl.float32) * tl.load(weight + items, mask=there, other=0.0)
    tl.store(out + row * SIZE + items, result.to(x.dtype), mask=there)


@triton.jit
def _rms_scaled(x, eps, SIZE: tl.constexpr):
    return x * tl.rsqrt(tl.sum(x * x, axis=-1) / SIZE + eps)


@triton.jit
def scaled_by_norm(x, scale, weights, type):
    """A head by its norm's scale and `weights`, rounded where torch's operations would."""
    return ((x * scale).to(type).to(tl.float32) * weights).to(type).to(tl.float32)


@triton.jit
def rotated(x, other, cos, sin, type):
    """A half of a head, or both, with the `other` beside it and the signed sines. Fused by name:
    what a prompt's keys and a single token's are rounded to is the same."""
    return tl.fma(other, sin, x * cos).to(type)


@kernel
def rotate_and_store(
    qkv,
    cosines,
    sines,
    positions,
    slots,
    qk_norm,
    keys,
    values,
    num_rows,
    eps,
    row_stride,
    token_stride,
    head_stride,
    HAS_NORM: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    ROWS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Of some rows one head: queries are rotated where they are, keys on their way to the pool."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = HEAD_DIM // 2
    dims = tl.arange(0, PADDED_HALF)
    there = (rows < num_rows)[:, None] & (dims < half)[None, :]
    items = rows[:, None] * row_stride + head * HEAD_DIM + dims[None, :]
    position = tl.load(positions + rows, mask=rows < num_rows, other=0).to(tl.int64)
    slot = tl.load(slots + rows, mask=rows < num_rows, other=0).to(tl.int64)
    # The table's sines are signed: those of the first half of a head are negative.
    angles = position[:, None] * HEAD_DIM + dims[None, :]
    cos = tl.load(cosines + angles, mask=there, other=0.0)
    sin = tl.load(sines + angles + half, mask=there, other=0.0)
    # All of these are the step's, and none a kernel's result.
    await_inputs(CHAINED)
    first = tl.load(qkv + items, mask=there, other=0.0)
    second = tl.load(qkv + items + half, mask=there, other=0.0)
    if head < NUM_HEADS + NUM_KV_HEADS:
        x, y = first.to(tl.float32), second.to(tl.float32)
        if HAS_NORM:
            squares = tl.sum(x * x, axis=1) + tl.sum(y * y, axis=1)
            scale = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
            weights = qk_norm + head * HEAD_DIM + dims
            low = tl.load(weights, mask=dims < half, other=0.0)[None, :]
            high = tl.load(weights + half, mask=dims < half, other=0.0)[None, :]
            x = scaled_by_norm(x, scale, low, first.dtype)
            y = scaled_by_norm(y, scale, high, first.dtype)
        first = rotated(x, y, cos, -sin, first.dtype)
        second = rotated(y, x, cos, sin, second.dtype)
    if head < NUM_HEADS:
        tl.store(qkv + items, first, mask=there)
        tl.store(qkv + items + half, second, mask=there)
    else:
        if head < NUM_HEADS + NUM_KV_HEADS:
            pool = keys + (head - NUM_HEADS) * head_stride
        else:
            pool = values + (head - NUM_HEADS - NUM_KV_HEADS) * head_stride
        kept = pool + slot[:, None] * token_stride + dims[None, :]
        tl.store(kept, first, mask=there)
        tl.store(kept + half, second, mask=there)


@triton.jit
def silu_and_mul(gate_up, out, SIZE: tl.constexpr, ITEMS: tl.constexpr):
    """Gate and up projection side by side, [rows, 2 * SIZE] -> [rows, SIZE]."""
    row = tl.program_id(0).to(tl.int64)
    items = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    there = items < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + items, mask=there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + items, mask=there, other=0.0)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * SIZE + items, result.to(up.dtype), mask=there)


@kernel
def copy_blocks(
    pool,
    host,
    table,
    num_tokens,
    layer_words,
    TOKEN_WORDS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    READ: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """One block of one layer, out of `pool` or into it; in `host`, [layers, num_tokens,
    TOKEN_WORDS], the blocks of `table` follow each other, the last one perhaps not whole."""
    BLOCK_WORDS: tl.constexpr = BLOCK_SIZE * TOKEN_WORDS
    # By a token's, which is a constant: the compiler sees how many words are moved at once.
    num_words = num_tokens * TOKEN_WORDS
    index, layer = tl.program_id(0), tl.program_id(1).to(tl.int64)
    block = pool + layer * layer_words + tl.load(table + index) * BLOCK_WORDS
    start = index * BLOCK_WORDS
    for first in range(0, BLOCK_WORDS, ITEMS):
        words = first + tl.arange(0, ITEMS)
        there = (words < BLOCK_WORDS) & (start + words < num_words)
        outside = host + layer * num_words + start + words
        if READ:
            tl.store(outside, tl.load(block + words, mask=there), mask=there)
        else:
            tl.store(block + words, tl.load(outside, mask=there), mask=there)
