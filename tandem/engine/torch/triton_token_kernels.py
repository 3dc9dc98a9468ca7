"""Attention of single tokens over a paged KV cache on a GPU, as one Triton kernel: from a product's
output to what the next one takes. `triton_token_attention` launches it."""

import triton
import triton.language as tl

from tandem.engine.torch.triton_attention_kernels import (
    attend_keys,
    attend_tile,
    load_tile,
    num_used,
    split_bounds,
)
from tandem.engine.torch.triton_chain import await_inputs
from tandem.engine.torch.triton_jit import kernel
from tandem.engine.torch.triton_kernels import rotated, scaled_by_norm
from tandem.engine.torch.triton_split_kernels import is_last


@triton.jit
def _with_partners(row, heads, there, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """Some heads of a row, [heads, dim], and beside each item its partner in the other half."""
    dims = tl.arange(0, PADDED_DIM)
    partners = (dims + HEAD_DIM // 2) % HEAD_DIM
    wanted = there[:, None] & (dims < HEAD_DIM)[None, :]
    first = row + heads[:, None] * HEAD_DIM
    items = tl.load(first + dims[None, :], mask=wanted, other=0.0)
    return items, tl.load(first + partners[None, :], mask=wanted, other=0.0)


@triton.jit
def _rotated_heads(
    items,
    partners,
    weights,
    partner_weights,
    cos,
    sin,
    eps,
    HAS_NORM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    """Normed and rotated as by `rotate_and_store`."""
    type = items.dtype
    x, y = items.to(tl.float32), partners.to(tl.float32)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD_DIM + eps)[:, None]
        x = scaled_by_norm(x, scale, weights, type)
        y = scaled_by_norm(y, scale, partner_weights, type)
    return rotated(x, y, cos[None, :], sin[None, :], type)


@triton.jit
def _merge(
    out,  # of one row and KV head
    parts,
    weights,
    number,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """What the first `number` of at most `SPLITS` splits have left, scaled to the highest maximum,
    `HEADS` heads at a time. Not from a processor's own cache: others wrote it."""
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, PADDED_DIM)
    is_dim = (dims < HEAD_DIM)[None, :]
    for first in range(0, GROUP, HEADS):
        heads = first + tl.arange(0, HEADS)
        used = (heads < GROUP)[:, None] & (splits < number)[None, :]
        left = splits[None, :] * GROUP + heads[:, None]
        maximum = tl.load(weights + left * 2, mask=used, other=float("-inf"), cache_modifier=".cg")
        weight = tl.load(weights + left * 2 + 1, mask=used, other=0.0, cache_modifier=".cg")
        cells = left[:, :, None] * HEAD_DIM + dims[None, None, :]
        there = used[:, :, None] & is_dim[None, :, :]
        part = tl.load(parts + cells, mask=there, other=0.0, cache_modifier=".cg")
        # Heads that are not there have none, and are not stored.
        highest = tl.where(heads < GROUP, tl.max(maximum, axis=1), 0.0)
        scales = tl.exp2(maximum - highest[:, None])
        total = tl.sum(part * scales[:, :, None], axis=1)
        whole = tl.where(heads < GROUP, tl.sum(weight * scales, axis=1), 1.0)
        result = total / whole[:, None]
        places = heads[:, None] * HEAD_DIM + dims[None, :]
        kept = (heads < GROUP)[:, None] & is_dim
        tl.store(out + places, result.to(out.dtype.element_ty), mask=kept)


@triton.jit
def _attend_own(q, own_k, own_v, has_own, scale):
    """What `attend_tile` goes on from: the token's own key, [1, dim], or nothing."""
    scores = tl.sum(q.to(tl.float32) * own_k.to(tl.float32), axis=1) * scale
    maximum = tl.where(has_own, scores, float("-inf"))
    weight = tl.where(has_own, 1.0, 0.0) + tl.zeros_like(scores)
    return own_v.to(tl.float32) + tl.zeros(q.shape, dtype=tl.float32), maximum, weight


@triton.jit
def _leave(
    total,
    maximum,
    weight,
    out,  # of one row and KV head
    parts,
    weights,
    count,
    split,
    number,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    HEADS: tl.constexpr,
):
    """What has come of a split, the only one or one of a `number`."""
    rows, dims = tl.arange(0, NUM_ROWS), tl.arange(0, PADDED_DIM)
    mine = rows < GROUP
    wanted = mine[:, None] & (dims < HEAD_DIM)[None, :]
    places = rows[:, None] * HEAD_DIM + dims[None, :]
    if number == 1:
        result = total / weight[:, None]
        tl.store(out + places, result.to(out.dtype.element_ty), mask=wanted)
    else:
        left = split * GROUP
        tl.store(parts + left * HEAD_DIM + places, total, mask=wanted)
        tl.store(weights + (left + rows) * 2, maximum, mask=mine)
        tl.store(weights + (left + rows) * 2 + 1, weight, mask=mine)
        if is_last(count, number):
            _merge(out, parts, weights, number, HEAD_DIM, PADDED_DIM, GROUP, SPLITS, HEADS)


@kernel
def attend_tokens(
    qkv,
    cosines,
    sines,
    qk_norm,
    keys,
    values,
    out,
    parts,
    weights,
    counts,
    positions,
    slots,
    tile_lengths,
    tables,
    scale,
    eps,
    block_stride,
    token_stride,
    head_stride,
    table_row_stride,
    table_block_stride,
    HAS_NORM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    HEADS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One token and the heads of one group, over one split of its keys (Flash-Decoding, Dao et al.
    2023); whichever of the splits ends last merges them.

    The token's own key and value are its product's output: the split that they are the last of
    stores them, and has them from there, not from the pool, so nobody waits for them to be there.
    What is left in `parts` [rows, KV heads, splits, group, dim] is not yet divided by its weight;
    `weights` [rows, KV heads, splits, group, 2] are the maximum and the weights' sum. `counts`
    [rows, KV heads] are how many splits have ended, 0 between two launches."""
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    num_kv_heads, num_splits = tl.num_programs(1), tl.num_programs(2)
    keys += kv_head * head_stride
    values += kv_head * head_stride
    table = tables + row * table_row_stride
    position = tl.load(positions + row)
    length = tl.load(tile_lengths + row)
    slot = tl.load(slots + row).to(tl.int64)
    dims = tl.arange(0, PADDED_DIM)
    angles = position.to(tl.int64) * HEAD_DIM + dims
    cos = tl.load(cosines + angles, mask=dims < HEAD_DIM, other=0.0)
    sin = tl.load(sines + angles, mask=dims < HEAD_DIM, other=0.0)
    start, end = split_bounds(position, split, num_splits, WINDOW, KEY_TILE)
    # Of the tokens before; the last of their tiles, which may not be whole, comes first.
    old_end = tl.minimum(end, position)
    last = start + tl.maximum(old_end - start - 1, 0) // KEY_TILE * KEY_TILE
    k, v = load_tile(
        keys,
        values,
        table,
        last,
        old_end,
        block_stride,
        token_stride,
        table_block_stride,
        True,
        BLOCK_SIZE,
        KEY_TILE,
        HEAD_DIM,
        PADDED_DIM,
    )
    rows = tl.arange(0, NUM_ROWS)
    num_heads = num_kv_heads * GROUP
    heads = kv_head * GROUP + rows
    mine = rows < GROUP
    has_own = end > position
    own_head = tl.full([1], num_heads + kv_head, tl.int32)
    own_there = tl.full([1], has_own, tl.int1)
    by, partners_by, own_by, own_partners_by = 1.0, 1.0, 1.0, 1.0
    if HAS_NORM:
        by, partners_by = _with_partners(qk_norm, heads, mine, HEAD_DIM, PADDED_DIM)
        own_by, own_partners_by = _with_partners(qk_norm, own_head, own_there, HEAD_DIM, PADDED_DIM)
    # All of these are the step's or of steps before, and none a kernel's result.
    await_inputs(CHAINED)
    if (start >= end) | (length == 0):
        return
    # All that is to be loaded, before any of it is awaited.
    qkv += row * (num_heads + 2 * num_kv_heads) * HEAD_DIM
    own_items = own_there[:, None] & (dims < HEAD_DIM)[None, :]
    own_v_places = (own_head + num_kv_heads)[:, None] * HEAD_DIM + dims[None, :]
    own_v = tl.load(qkv + own_v_places, mask=own_items, other=0.0)
    own_k, own_partners = _with_partners(qkv, own_head, own_there, HEAD_DIM, PADDED_DIM)
    q, partners = _with_partners(qkv, heads, mine, HEAD_DIM, PADDED_DIM)
    own_k = _rotated_heads(
        own_k, own_partners, own_by, own_partners_by, cos, sin, eps, HAS_NORM, HEAD_DIM
    )
    q = _rotated_heads(q, partners, by, partners_by, cos, sin, eps, HAS_NORM, HEAD_DIM)
    stored = slot * token_stride + dims[None, :]
    tl.store(keys + stored, own_k, mask=own_items)
    tl.store(values + stored, own_v, mask=own_items)
    total, maximum, weight = _attend_own(q, own_k, own_v, has_own, scale)
    # No window cuts a split: all of its keys are seen.
    query_positions = position + rows * 0
    total, maximum, weight = attend_tile(
        q, query_positions, total, maximum, weight, k, v, last, old_end, scale, True, 0, KEY_TILE
    )
    for tile in range(start, last, KEY_TILE):
        total, maximum, weight = attend_keys(
            q,
            query_positions,
            total,
            maximum,
            weight,
            keys,
            values,
            table,
            tile,
            old_end,
            scale,
            block_stride,
            token_stride,
            table_block_stride,
            False,
            BLOCK_SIZE,
            0,
            KEY_TILE,
            HEAD_DIM,
            PADDED_DIM,
        )
    pair = row * num_kv_heads + kv_head
    left = pair * num_splits * GROUP
    _leave(
        total,
        maximum,
        weight,
        out + pair * GROUP * HEAD_DIM,
        parts + left * HEAD_DIM,
        weights + left * 2,
        counts + pair,
        split,
        num_used(position, num_splits, WINDOW, KEY_TILE),
        HEAD_DIM,
        PADDED_DIM,
        GROUP,
        NUM_ROWS,
        SPLITS,
        HEADS,
    )
