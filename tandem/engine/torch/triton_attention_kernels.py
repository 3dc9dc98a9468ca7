"""Attention over a paged KV cache on a GPU, as Triton kernels. `triton_attention` launches them."""

import triton
import triton.language as tl

from tandem.engine.torch.triton_chain import await_inputs
from tandem.engine.torch.triton_jit import kernel


@triton.jit
def find_tile(
    table,
    start,
    end,
    block_stride,
    token_stride,
    table_block_stride,
    MASKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Where a tile's keys, and its values, begin; not `MASKED`, all of them are there."""
    positions = start + tl.arange(0, KEY_TILE)
    entries = table + positions // BLOCK_SIZE * table_block_stride
    blocks = tl.load(entries, mask=positions < end, other=0) if MASKED else tl.load(entries)
    return blocks.to(tl.int64) * block_stride + (positions % BLOCK_SIZE) * token_stride


@triton.jit
def load_tile(
    keys,  # of one KV head
    values,
    places,  # of `find_tile`
    start,
    end,
    MASKED: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
):
    """A tile's keys and values, each [keys, dim]."""
    dims = tl.arange(0, PADDED_DIM)
    items = places[:, None] + dims[None, :]
    loaded = (dims < HEAD_DIM)[None, :]
    if MASKED:
        loaded = (start + tl.arange(0, KEY_TILE) < end)[:, None] & loaded
    if MASKED or PADDED_DIM > HEAD_DIM:
        # What is not there is 0, whatever the pool holds: 0 times NaN would be NaN.
        k = tl.load(keys + items, mask=loaded, other=0.0)
        v = tl.load(values + items, mask=loaded, other=0.0)
    else:
        k = tl.load(keys + items)
        v = tl.load(values + items)
    return k, v


@triton.jit
def attend_tile(
    q,  # [rows, dim]
    query_positions,  # [rows]
    total,  # [rows, dim]
    maximum,
    weight,
    k,
    v,
    start,
    end,
    scale,
    MASKED: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
):
    """Add a tile of keys to what was attended to before (FlashAttention-2, Dao 2023, section 3.1):
    the weighted sum of values, and over the scores, which are base-2 logarithms, their maximum and
    the sum of the weights. Not `MASKED`, all queries see all of the tile's keys."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if MASKED:
        positions = start + tl.arange(0, KEY_TILE)
        visible = (positions < end)[None, :] & (positions[None, :] <= query_positions[:, None])
        if WINDOW > 0:
            visible = visible & (positions[None, :] > query_positions[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
    highest = tl.maximum(maximum, tl.max(scores, axis=1))
    reference = highest
    if MASKED:
        # Rows that have seen no key at all have no maximum; then nothing is to be scaled.
        reference = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(scores - reference[:, None])
    shrink = tl.exp2(maximum - reference)
    total = tl.dot(weights.to(v.dtype), v, total * shrink[:, None], input_precision="ieee")
    return total, highest, weight * shrink + tl.sum(weights, axis=1)


@triton.jit
def attend_keys(
    q,
    query_positions,
    total,
    maximum,
    weight,
    keys,
    values,
    table,
    start,
    end,
    scale,
    block_stride,
    token_stride,
    table_block_stride,
    MASKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
):
    """`attend_tile` with what `load_tile` loads."""
    places = find_tile(
        *(table, start, end, block_stride, token_stride, table_block_stride),
        *(MASKED, BLOCK_SIZE, KEY_TILE),
    )
    k, v = load_tile(keys, values, places, start, end, MASKED, KEY_TILE, HEAD_DIM, PADDED_DIM)
    return attend_tile(
        *(q, query_positions, total, maximum, weight),
        *(k, v, start, end, scale, MASKED, WINDOW, KEY_TILE),
    )


@triton.jit
def _attend_range(
    q,
    query_positions,
    keys,
    values,
    table,
    start,
    whole,
    end,
    scale,
    block_stride,
    token_stride,
    table_block_stride,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    NUM_ROWS: tl.constexpr,
):
    """Keys `[start, end)`, of which all queries see `[start, whole)` if there is no window."""
    total = tl.zeros([NUM_ROWS, PADDED_DIM], dtype=tl.float32)
    maximum = tl.full([NUM_ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([NUM_ROWS], dtype=tl.float32)
    masked_start = start
    if WINDOW == 0:
        masked_start = start + tl.maximum(whole - start, 0) // KEY_TILE * KEY_TILE
        for tile in range(start, masked_start, KEY_TILE):
            total, maximum, weight = attend_keys(
                *(q, query_positions, total, maximum, weight),
                *(keys, values, table, tile, end, scale),
                *(block_stride, token_stride, table_block_stride),
                *(False, BLOCK_SIZE, WINDOW, KEY_TILE, HEAD_DIM, PADDED_DIM),
            )
    for tile in range(masked_start, end, KEY_TILE):
        total, maximum, weight = attend_keys(
            *(q, query_positions, total, maximum, weight),
            *(keys, values, table, tile, end, scale),
            *(block_stride, token_stride, table_block_stride),
            *(True, BLOCK_SIZE, WINDOW, KEY_TILE, HEAD_DIM, PADDED_DIM),
        )
    return total, maximum, weight


@triton.jit
def _first_key(position, WINDOW: tl.constexpr):
    """The first key that a query at `position`, or one behind it, sees."""
    if WINDOW > 0:
        return tl.maximum(position - WINDOW + 1, 0)
    return 0


@kernel
def attend_prompt(
    q,
    keys,
    values,
    out,
    tile_rows,
    tile_lengths,
    tile_positions,
    tables,
    scale,
    q_row_stride,
    out_row_stride,
    block_stride,
    token_stride,
    head_stride,
    table_row_stride,
    table_block_stride,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
):
    """A tile of queries and the heads of one group: rows by token, then by head."""
    # A prompt's last tiles have the most keys: they come first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    length = tl.load(tile_lengths + tile)
    position = tl.load(tile_positions + tile)
    rows = tl.arange(0, NUM_ROWS)
    queries = rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    dims = tl.arange(0, PADDED_DIM)
    wanted = (queries < length)[:, None] & (dims < HEAD_DIM)[None, :]
    step_rows = (tl.load(tile_rows + tile) + queries).to(tl.int64)
    places = heads[:, None] * HEAD_DIM + dims[None, :]
    total, _, weight = _attend_range(
        tl.load(q + step_rows[:, None] * q_row_stride + places, mask=wanted, other=0.0),
        position + queries,
        keys + kv_head * head_stride,
        values + kv_head * head_stride,
        tables + tile.to(tl.int64) * table_row_stride,
        _first_key(position, WINDOW),
        position + 1,
        position + length,
        *(scale, block_stride, token_stride, table_block_stride),
        *(BLOCK_SIZE, WINDOW, KEY_TILE, HEAD_DIM, PADDED_DIM, NUM_ROWS),
    )
    result = (total / weight[:, None]).to(out.dtype.element_ty)
    tl.store(out + step_rows[:, None] * out_row_stride + places, result, mask=wanted)


@triton.jit
def split_bounds(position, split, num_splits, WINDOW: tl.constexpr, KEY_TILE: tl.constexpr):
    """The keys of a split: whole tiles, equally many for each; the last ones may have none."""
    first = _first_key(position, WINDOW)
    keys = _keys_a_split(position, num_splits, WINDOW, KEY_TILE)
    return first + split * keys, tl.minimum(first + (split + 1) * keys, position + 1)


@triton.jit
def num_used(position, num_splits, WINDOW: tl.constexpr, KEY_TILE: tl.constexpr):
    """How many splits, the first ones, have keys."""
    keys = _keys_a_split(position, num_splits, WINDOW, KEY_TILE)
    return tl.cdiv(position + 1 - _first_key(position, WINDOW), keys)


@triton.jit
def _keys_a_split(position, num_splits, WINDOW: tl.constexpr, KEY_TILE: tl.constexpr):
    tiles = tl.cdiv(position + 1 - _first_key(position, WINDOW), KEY_TILE)
    return tl.cdiv(tiles, num_splits) * KEY_TILE


@kernel
def attend_split(
    q,
    keys,
    values,
    parts,
    weights,
    tile_rows,
    tile_lengths,
    tile_positions,
    tables,
    scale,
    q_row_stride,
    block_stride,
    token_stride,
    head_stride,
    table_row_stride,
    table_block_stride,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One query and the heads of one group, over one split of its keys (Flash-Decoding, Dao et al.
    2023): what is left in `parts` [tiles, heads, splits, dim] is not yet divided by its weight;
    `weights` [tiles, heads, splits, 2] are the maximum and the weights' sum."""
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_splits = tl.num_programs(2)
    # The step's own, and no kernel's result.
    position = tl.load(tile_positions + tile)
    length = tl.load(tile_lengths + tile)
    row = tl.load(tile_rows + tile).to(tl.int64)
    await_inputs(CHAINED)
    start, end = split_bounds(position, split, num_splits, WINDOW, KEY_TILE)
    if (start >= end) | (length == 0):
        return
    rows = tl.arange(0, NUM_ROWS)
    heads = kv_head * GROUP + rows
    dims = tl.arange(0, PADDED_DIM)
    mine = rows < GROUP
    wanted = mine[:, None] & (dims < HEAD_DIM)[None, :]
    places = heads[:, None] * HEAD_DIM + dims[None, :]
    total, maximum, weight = _attend_range(
        tl.load(q + row * q_row_stride + places, mask=wanted, other=0.0),
        position + rows * 0,
        keys + kv_head * head_stride,
        values + kv_head * head_stride,
        tables + tile.to(tl.int64) * table_row_stride,
        start,
        end,
        end,
        *(scale, block_stride, token_stride, table_block_stride),
        *(BLOCK_SIZE, WINDOW, KEY_TILE, HEAD_DIM, PADDED_DIM, NUM_ROWS),
    )
    num_heads = tl.num_programs(1) * GROUP
    left = (tile.to(tl.int64) * num_heads + heads) * num_splits + split
    tl.store(parts + left[:, None] * HEAD_DIM + dims[None, :], total, mask=wanted)
    tl.store(weights + left * 2, maximum, mask=mine)
    tl.store(weights + left * 2 + 1, weight, mask=mine)


@kernel
def merge_splits(
    out,
    parts,
    weights,
    tile_rows,
    tile_lengths,
    tile_positions,
    out_row_stride,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One query and head: what its splits have left, scaled to the highest maximum."""
    tile, head = tl.program_id(0), tl.program_id(1)
    # The step's own, and no kernel's result.
    position = tl.load(tile_positions + tile)
    length = tl.load(tile_lengths + tile)
    row = tl.load(tile_rows + tile).to(tl.int64)
    await_inputs(CHAINED)
    if length == 0:
        return
    splits = tl.arange(0, NUM_SPLITS)
    starts, ends = split_bounds(position, splits, NUM_SPLITS, WINDOW, KEY_TILE)
    used = starts < ends
    dims = tl.arange(0, PADDED_DIM)
    left = (tile.to(tl.int64) * tl.num_programs(1) + head) * NUM_SPLITS + splits
    maximum = tl.load(weights + left * 2, mask=used, other=float("-inf"))
    weight = tl.load(weights + left * 2 + 1, mask=used, other=0.0)
    there = used[:, None] & (dims < HEAD_DIM)[None, :]
    part = tl.load(parts + left[:, None] * HEAD_DIM + dims[None, :], mask=there, other=0.0)
    scales = tl.exp2(maximum - tl.max(maximum, axis=0))
    result = tl.sum(part * scales[:, None], axis=0) / tl.sum(weight * scales, axis=0)
    items = row * out_row_stride + head * HEAD_DIM + dims
    tl.store(out + items, result.to(out.dtype.element_ty), mask=dims < HEAD_DIM)
