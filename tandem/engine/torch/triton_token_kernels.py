"""Attention of single tokens over a paged KV cache on a GPU, as one Triton kernel: from a product's
output to what the next one takes. `triton_token_attention` launches it."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tandem.engine.torch.triton_attention_kernels import (
    attend_keys,
    attend_tile,
    find_tile,
    load_tile,
    num_used,
    split_bounds,
)
from tandem.engine.torch.triton_chain import LINE, fetch
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
    """What `attend_tile` goes on from: the token's own key and value, [1, dim], or nothing."""
    scores = tl.sum(q.to(tl.float32) * own_k, axis=1) * scale
    maximum = tl.where(has_own, scores, float("-inf"))
    weight = tl.where(has_own, 1.0, 0.0) + tl.zeros_like(scores)
    # What is no number may not come in where the key is not: nothing would take it out again.
    own_v = tl.where(has_own, own_v, 0.0)
    return own_v + tl.zeros(q.shape, dtype=tl.float32), maximum, weight


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


@triton.jit
def _fetch_tile(keys, values, places, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """Let what `load_tile` is to load come to the cache that all programs share."""
    count: tl.constexpr = (PADDED_DIM + LINE - 1) // LINE
    lines = tl.minimum(tl.arange(0, count) * LINE, HEAD_DIM - 1)
    fetch(keys + places[:, None] + lines[None, :])
    fetch(values + places[:, None] + lines[None, :])


@triton.jit
def _row(tile, is_row):
    """Of a tile [rows, dim] one row, [1, dim], or zeros for none."""
    return tl.sum(tl.where(is_row[:, None], tile.to(tl.float32), 0.0), axis=0)[None, :]


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
    if CHAINED:
        gdc_launch_dependents()
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    num_kv_heads, num_splits = tl.num_programs(1), tl.num_programs(2)
    keys += kv_head * head_stride
    values += kv_head * head_stride
    table = tables + row * table_row_stride
    position = tl.load(positions + row)
    length = tl.load(tile_lengths + row)
    slot = tl.load(slots + row).to(tl.int64)
    dims = tl.arange(0, PADDED_DIM)
    is_dim = dims < HEAD_DIM
    angles = position.to(tl.int64) * HEAD_DIM + dims
    cos = tl.load(cosines + angles, mask=is_dim, other=0.0)
    sin = tl.load(sines + angles, mask=is_dim, other=0.0)
    start, end = split_bounds(position, split, num_splits, WINDOW, KEY_TILE)
    has_own = end > position
    # Of the tokens before; the last of their tiles, which may not be whole, comes first.
    old_end = tl.minimum(end, position)
    last = start + tl.maximum(old_end - start - 1, 0) // KEY_TILE * KEY_TILE
    places = find_tile(
        *(table, last, old_end, block_stride, token_stride, table_block_stride),
        *(True, BLOCK_SIZE, KEY_TILE),
    )
    # The group's queries, and below them the token's own key and value.
    rows = tl.arange(0, NUM_ROWS)
    is_k, is_v = rows == GROUP, rows == GROUP + 1
    num_heads = num_kv_heads * GROUP
    heads = tl.where(rows < GROUP, kv_head * GROUP + rows, num_heads + kv_head)
    heads += tl.where(is_v, num_kv_heads, 0)
    by, partners_by = 1.0, 1.0
    if HAS_NORM:
        by, partners_by = _with_partners(qk_norm, heads, rows <= GROUP, HEAD_DIM, PADDED_DIM)
    # All of these are the step's or of steps before, and none a kernel's result.
    if CHAINED:
        _fetch_tile(keys, values, places, HEAD_DIM, PADDED_DIM)
        gdc_wait()
    if (start >= end) | (length == 0):
        return
    # All that is to be loaded, before any of it is awaited.
    qkv += row * (num_heads + 2 * num_kv_heads) * HEAD_DIM
    items, partners = _with_partners(qkv, heads, rows < GROUP + 2, HEAD_DIM, PADDED_DIM)
    k, v = load_tile(keys, values, places, last, old_end, True, KEY_TILE, HEAD_DIM, PADDED_DIM)
    q = _rotated_heads(items, partners, by, partners_by, cos, sin, eps, HAS_NORM, HEAD_DIM)
    q = tl.where(is_v[:, None], items, q)
    stored = slot * token_stride + dims[None, :] + rows[:, None] * 0
    kept = is_dim[None, :] & has_own
    tl.store(keys + stored, q, mask=is_k[:, None] & kept)
    tl.store(values + stored, q, mask=is_v[:, None] & kept)
    total, maximum, weight = _attend_own(q, _row(q, is_k), _row(q, is_v), has_own, scale)
    # No window cuts a split: all of its keys are seen.
    query_positions = position + rows * 0
    total, maximum, weight = attend_tile(
        q, query_positions, total, maximum, weight, k, v, last, old_end, scale, True, 0, KEY_TILE
    )
    for tile in range(start, last, KEY_TILE):
        total, maximum, weight = attend_keys(
            *(q, query_positions, total, maximum, weight),
            *(keys, values, table, tile, old_end, scale),
            *(block_stride, token_stride, table_block_stride),
            *(False, BLOCK_SIZE, 0, KEY_TILE, HEAD_DIM, PADDED_DIM),
        )
    pair = row * num_kv_heads + kv_head
    left = pair * num_splits * GROUP
    _leave(
        *(total, maximum, weight, out + pair * GROUP * HEAD_DIM),
        *(parts + left * HEAD_DIM, weights + left * 2, counts + pair),
        *(split, num_used(position, num_splits, WINDOW, KEY_TILE)),
        *(HEAD_DIM, PADDED_DIM, GROUP, NUM_ROWS, SPLITS, HEADS),
    )
