"""Attention over a paged KV cache on a GPU, as Triton kernels.

The keys of a sequence are cut into splits of `SPLIT` positions. Within a split, scores are summed
tile by tile (FlashAttention-2, Dao 2023, section 3.1); the splits are merged in order, by their
maxima and sums (Flash-Decoding, Dao et al. 2023). So the order of summation for a query depends on
the positions of its keys alone, be it computed in a prompt or as the one new token of a step.

A step of single tokens has too few queries to fill a GPU: there the splits are programs of their
own, and a second kernel merges what they leave in a workspace. In prompts one program goes through
all splits of its tile of queries.

Triton comes with torch's builds for GPUs; nothing else imports this module.
"""

import triton
import triton.language as tl


@triton.jit
def _merge(
    total,  # [rows, dim]
    maximum,
    weight,
    part,
    part_maximum,
    part_weight,
):
    """The result of two ranges of keys together: what each has, scaled to the higher maximum.
    Results are not yet divided by their weights."""
    highest = tl.maximum(maximum, part_maximum)
    # A range that is all hidden has no maximum; then nothing is to be scaled.
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    scale = tl.exp(maximum - reference)
    part_scale = tl.exp(part_maximum - reference)
    total = total * scale[:, None] + part * part_scale[:, None]
    weight = weight * scale + part_weight * part_scale
    return total, highest, weight


@triton.jit
def _attend_split(
    q,  # [rows, dim]
    query_positions,  # [rows]
    keys,
    values,
    table,
    kv_head,
    first_key,
    end_key,
    scale,
    block_stride,
    token_stride,
    head_stride,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    NUM_ROWS: tl.constexpr,
):
    """Keys `[first_key, end_key)`: the sum of their values, the maximum score, the weights' sum."""
    total = tl.zeros([NUM_ROWS, PADDED_DIM], dtype=tl.float32)
    maximum = tl.full([NUM_ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([NUM_ROWS], dtype=tl.float32)
    dims = tl.arange(0, PADDED_DIM)
    for start in range(first_key, end_key, KEY_TILE):
        positions = start + tl.arange(0, KEY_TILE)
        exists = positions < end_key
        blocks = tl.load(table + positions // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        tokens = blocks * block_stride + (positions % BLOCK_SIZE) * token_stride
        items = tokens[:, None] + kv_head * head_stride + dims[None, :]
        # What is not there is 0, whatever the pool holds: 0 times NaN would be NaN.
        loaded = exists[:, None] & (dims[None, :] < HEAD_DIM)
        k = tl.load(keys + items, mask=loaded, other=0.0)
        v = tl.load(values + items, mask=loaded, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        visible = exists[None, :] & (positions[None, :] <= query_positions[:, None])
        if WINDOW > 0:
            visible = visible & (positions[None, :] > query_positions[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
        tile_maximum = tl.max(scores, axis=1)
        reference = tl.where(tile_maximum == float("-inf"), 0.0, tile_maximum)
        weights = tl.exp(scores - reference[:, None])
        part = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total, maximum, weight = _merge(
            total, maximum, weight, part, tile_maximum, tl.sum(weights, axis=1)
        )
    return total, maximum, weight


@triton.jit
def _first_split(position, WINDOW: tl.constexpr, SPLIT: tl.constexpr):
    """The first split of which a query at `position`, or one behind it, sees anything."""
    if WINDOW > 0:
        return tl.maximum(position - WINDOW + 1, 0) // SPLIT
    return 0


@triton.jit
def attend_tile(
    q,
    keys,
    values,
    out,
    parts,
    weights,
    tile_rows,
    tile_lengths,
    tile_positions,
    tables,
    scale,
    q_row_stride,
    q_head_stride,
    out_row_stride,
    out_head_stride,
    block_stride,
    token_stride,
    head_stride,
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS_APART: tl.constexpr,
    SPLIT: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
):
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(tile_lengths + tile)
    position = tl.load(tile_positions + tile)
    end = position + length
    first_split = _first_split(position, WINDOW, SPLIT)
    last_split = (end - 1) // SPLIT
    if SPLITS_APART:
        if (split < first_split) | (split > last_split):
            return
        first_split = split
        last_split = split

    dims = tl.arange(0, PADDED_DIM)
    rows = tl.arange(0, NUM_ROWS)
    queries = rows // GROUP
    heads = kv_head * GROUP + rows % GROUP
    wanted = (queries < length)[:, None] & (dims < HEAD_DIM)[None, :]
    step_rows = (tl.load(tile_rows + tile) + queries).to(tl.int64)
    q_items = step_rows[:, None] * q_row_stride + heads[:, None] * q_head_stride + dims[None, :]
    q_tile = tl.load(q + q_items, mask=wanted, other=0.0)

    total = tl.zeros([NUM_ROWS, PADDED_DIM], dtype=tl.float32)
    maximum = tl.full([NUM_ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([NUM_ROWS], dtype=tl.float32)
    for index in range(first_split, last_split + 1):
        part, part_maximum, part_weight = _attend_split(
            q_tile,
            position + queries,
            keys,
            values,
            tables + tile.to(tl.int64) * table_stride,
            kv_head,
            index * SPLIT,
            tl.minimum(index * SPLIT + SPLIT, end),
            scale,
            block_stride,
            token_stride,
            head_stride,
            BLOCK_SIZE,
            WINDOW,
            KEY_TILE,
            HEAD_DIM,
            PADDED_DIM,
            NUM_ROWS,
        )
        total, maximum, weight = _merge(total, maximum, weight, part, part_maximum, part_weight)

    if SPLITS_APART:
        place = ((tile * tl.num_programs(1) + kv_head) * tl.num_programs(2) + split).to(tl.int64)
        left = place * GROUP + rows
        mine = rows < GROUP
        tl.store(parts + left[:, None] * HEAD_DIM + dims[None, :], total, mask=wanted)
        tl.store(weights + left * 2, maximum, mask=mine)
        tl.store(weights + left * 2 + 1, weight, mask=mine)
    else:
        out_items = (
            step_rows[:, None] * out_row_stride + heads[:, None] * out_head_stride + dims[None, :]
        )
        result = total / weight[:, None]
        tl.store(out + out_items, result.to(out.dtype.element_ty), mask=wanted)


@triton.jit
def merge_splits(
    out,
    parts,
    weights,
    tile_rows,
    tile_lengths,
    tile_positions,
    out_row_stride,
    out_head_stride,
    num_splits,
    WINDOW: tl.constexpr,
    SPLIT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
):
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    if tl.load(tile_lengths + tile) == 0:
        return
    position = tl.load(tile_positions + tile)
    dims = tl.arange(0, PADDED_DIM)
    rows = tl.arange(0, NUM_ROWS)
    mine = rows < GROUP
    wanted = mine[:, None] & (dims < HEAD_DIM)[None, :]
    total = tl.zeros([NUM_ROWS, PADDED_DIM], dtype=tl.float32)
    maximum = tl.full([NUM_ROWS], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([NUM_ROWS], dtype=tl.float32)
    place = (tile * tl.num_programs(1) + kv_head).to(tl.int64) * num_splits
    for split in range(_first_split(position, WINDOW, SPLIT), position // SPLIT + 1):
        left = (place + split) * GROUP + rows
        part = tl.load(parts + left[:, None] * HEAD_DIM + dims[None, :], mask=wanted, other=0.0)
        part_maximum = tl.load(weights + left * 2, mask=mine, other=float("-inf"))
        part_weight = tl.load(weights + left * 2 + 1, mask=mine, other=0.0)
        total, maximum, weight = _merge(total, maximum, weight, part, part_maximum, part_weight)
    row = tl.load(tile_rows + tile).to(tl.int64)
    heads = kv_head * GROUP + rows
    items = row * out_row_stride + heads[:, None] * out_head_stride + dims[None, :]
    result = total / weight[:, None]
    tl.store(out + items, result.to(out.dtype.element_ty), mask=wanted)
