"""A decoder's layers on a GPU, as Triton kernels: what is between the matrix products, in as few
passes over memory as there can be. `triton_layers` and `triton_attention` launch them.

Triton comes with torch's builds for GPUs; nothing but the GPU's runner imports this.
"""

import triton
import triton.language as tl


@triton.jit
def embed(token_ids, last_tokens, weight, out, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """A row of `weight` for each token. A token below 0 stands for that of row -1 - token of the
    step before, which only the device has yet."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(token_ids + row).to(tl.int64)
    if token < 0:
        # A step that could not sample has left less than 0, and its own rows are given up.
        token = tl.maximum(tl.load(last_tokens - token - 1), 0)
    items = tl.arange(0, PADDED)
    there = items < SIZE
    tl.store(
        out + row * SIZE + items, tl.load(weight + token * SIZE + items, mask=there), mask=there
    )


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
):
    """Of some rows one head: queries are rotated where they are, keys on their way to the pool."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = HEAD_DIM // 2
    dims = tl.arange(0, PADDED_HALF)
    there = (rows < num_rows)[:, None] & (dims < half)[None, :]
    items = rows[:, None] * row_stride + head * HEAD_DIM + dims[None, :]
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
            x = ((x * scale).to(first.dtype).to(tl.float32) * low).to(first.dtype).to(tl.float32)
            y = ((y * scale).to(first.dtype).to(tl.float32) * high).to(first.dtype).to(tl.float32)
        position = tl.load(positions + rows, mask=rows < num_rows, other=0).to(tl.int64)
        angles = position[:, None] * HEAD_DIM + dims[None, :]
        # The table's sines are signed: those of the first half of a head are negative.
        cos = tl.load(cosines + angles, mask=there, other=0.0)
        sin = tl.load(sines + angles + half, mask=there, other=0.0)
        first = (x * cos - y * sin).to(first.dtype)
        second = (y * cos + x * sin).to(first.dtype)
    if head < NUM_HEADS:
        tl.store(qkv + items, first, mask=there)
        tl.store(qkv + items + half, second, mask=there)
    else:
        slot = tl.load(slots + rows, mask=rows < num_rows, other=0).to(tl.int64)
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


@triton.jit
def likeliest(logits, best, num_items, row_stride, ITEMS: tl.constexpr):
    """Of a part of each row the highest logit and its id, as one number that is the greater, the
    higher the logit, and then, the lower the id; `best` [rows] keeps the greatest. What is no
    number counts as the highest of all."""
    row = tl.program_id(0)
    items = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    there = items < num_items
    logit = tl.load(logits + row.to(tl.int64) * row_stride + items, mask=there, other=float("-inf"))
    # One zero, and one NaN.
    logit = tl.where(logit == logit, logit + 0.0, float("nan"))
    bits = logit.to(tl.int32, bitcast=True)
    # Of negative floats the order of their bits is the reverse.
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    packed = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - items).to(tl.int64)
    tl.atomic_max(best + row, tl.max(tl.where(there, packed, -0x7FFFFFFFFFFFFFFF), axis=0))


@triton.jit
def copy_blocks(
    pool,
    host,
    table,
    num_words,
    layer_words,
    BLOCK_WORDS: tl.constexpr,
    READ: tl.constexpr,
    ITEMS: tl.constexpr,
):
    """One block of one layer, out of `pool` or into it; in `host`, [layers, num_words], the blocks
    of `table` follow each other, the last one perhaps not whole."""
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


@triton.jit
def _attend_keys(
    q,  # [rows, dim]
    query_positions,  # [rows]
    total,  # [rows, dim]
    maximum,
    weight,
    keys,  # of one KV head
    values,
    table,
    start,
    end,
    scale,
    block_stride,
    token_stride,
    MASKED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
):
    """Add a tile of keys to what was attended to before (FlashAttention-2, Dao 2023, section 3.1):
    the weighted sum of values, and over the scores, which are base-2 logarithms, their maximum and
    the sum of the weights. Not `MASKED`, all queries see all of the tile's keys."""
    dims = tl.arange(0, PADDED_DIM)
    positions = start + tl.arange(0, KEY_TILE)
    if MASKED:
        exists = positions < end
        blocks = tl.load(table + positions // BLOCK_SIZE, mask=exists, other=0).to(tl.int64)
        loaded = exists[:, None] & (dims < HEAD_DIM)[None, :]
    else:
        blocks = tl.load(table + positions // BLOCK_SIZE).to(tl.int64)
        loaded = (dims < HEAD_DIM)[None, :]
    tokens = blocks * block_stride + (positions % BLOCK_SIZE) * token_stride
    items = tokens[:, None] + dims[None, :]
    if MASKED or PADDED_DIM > HEAD_DIM:
        # What is not there is 0, whatever the pool holds: 0 times NaN would be NaN.
        k = tl.load(keys + items, mask=loaded, other=0.0)
        v = tl.load(values + items, mask=loaded, other=0.0)
    else:
        k = tl.load(keys + items)
        v = tl.load(values + items)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if MASKED:
        visible = exists[None, :] & (positions[None, :] <= query_positions[:, None])
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
            total, maximum, weight = _attend_keys(
                q,
                query_positions,
                total,
                maximum,
                weight,
                keys,
                values,
                table,
                tile,
                end,
                scale,
                block_stride,
                token_stride,
                False,
                BLOCK_SIZE,
                WINDOW,
                KEY_TILE,
                HEAD_DIM,
                PADDED_DIM,
            )
    for tile in range(masked_start, end, KEY_TILE):
        total, maximum, weight = _attend_keys(
            q,
            query_positions,
            total,
            maximum,
            weight,
            keys,
            values,
            table,
            tile,
            end,
            scale,
            block_stride,
            token_stride,
            True,
            BLOCK_SIZE,
            WINDOW,
            KEY_TILE,
            HEAD_DIM,
            PADDED_DIM,
        )
    return total, maximum, weight


@triton.jit
def _first_key(position, WINDOW: tl.constexpr):
    """The first key that a query at `position`, or one behind it, sees."""
    if WINDOW > 0:
        return tl.maximum(position - WINDOW + 1, 0)
    return 0


@triton.jit
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
    table_stride,
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
        tables + tile.to(tl.int64) * table_stride,
        _first_key(position, WINDOW),
        position + 1,
        position + length,
        scale,
        block_stride,
        token_stride,
        BLOCK_SIZE,
        WINDOW,
        KEY_TILE,
        HEAD_DIM,
        PADDED_DIM,
        NUM_ROWS,
    )
    result = (total / weight[:, None]).to(out.dtype.element_ty)
    tl.store(out + step_rows[:, None] * out_row_stride + places, result, mask=wanted)


@triton.jit
def _split_bounds(position, split, num_splits, WINDOW: tl.constexpr, KEY_TILE: tl.constexpr):
    """The keys of a split: whole tiles, equally many for each; the last ones may have none."""
    first = _first_key(position, WINDOW)
    tiles = tl.cdiv(position + 1 - first, KEY_TILE)
    keys = tl.cdiv(tiles, num_splits) * KEY_TILE
    return first + split * keys, tl.minimum(first + (split + 1) * keys, position + 1)


@triton.jit
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
    table_stride,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    KEY_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    NUM_ROWS: tl.constexpr,
):
    """One query and the heads of one group, over one split of its keys (Flash-Decoding, Dao et al.
    2023): what is left in `parts` [tiles, heads, splits, dim] is not yet divided by its weight;
    `weights` [tiles, heads, splits, 2] are the maximum and the weights' sum."""
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_splits = tl.num_programs(2)
    position = tl.load(tile_positions + tile)
    start, end = _split_bounds(position, split, num_splits, WINDOW, KEY_TILE)
    if (start >= end) | (tl.load(tile_lengths + tile) == 0):
        return
    rows = tl.arange(0, NUM_ROWS)
    heads = kv_head * GROUP + rows
    dims = tl.arange(0, PADDED_DIM)
    mine = rows < GROUP
    wanted = mine[:, None] & (dims < HEAD_DIM)[None, :]
    row = tl.load(tile_rows + tile).to(tl.int64)
    places = heads[:, None] * HEAD_DIM + dims[None, :]
    total, maximum, weight = _attend_range(
        tl.load(q + row * q_row_stride + places, mask=wanted, other=0.0),
        position + rows * 0,
        keys + kv_head * head_stride,
        values + kv_head * head_stride,
        tables + tile.to(tl.int64) * table_stride,
        start,
        end,
        end,
        scale,
        block_stride,
        token_stride,
        BLOCK_SIZE,
        WINDOW,
        KEY_TILE,
        HEAD_DIM,
        PADDED_DIM,
        NUM_ROWS,
    )
    num_heads = tl.num_programs(1) * GROUP
    left = (tile.to(tl.int64) * num_heads + heads) * num_splits + split
    tl.store(parts + left[:, None] * HEAD_DIM + dims[None, :], total, mask=wanted)
    tl.store(weights + left * 2, maximum, mask=mine)
    tl.store(weights + left * 2 + 1, weight, mask=mine)


@triton.jit
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
):
    """One query and head: what its splits have left, scaled to the highest maximum."""
    tile, head = tl.program_id(0), tl.program_id(1)
    if tl.load(tile_lengths + tile) == 0:
        return
    position = tl.load(tile_positions + tile)
    splits = tl.arange(0, NUM_SPLITS)
    starts, ends = _split_bounds(position, splits, NUM_SPLITS, WINDOW, KEY_TILE)
    used = starts < ends
    dims = tl.arange(0, PADDED_DIM)
    left = (tile.to(tl.int64) * tl.num_programs(1) + head) * NUM_SPLITS + splits
    maximum = tl.load(weights + left * 2, mask=used, other=float("-inf"))
    weight = tl.load(weights + left * 2 + 1, mask=used, other=0.0)
    there = used[:, None] & (dims < HEAD_DIM)[None, :]
    part = tl.load(parts + left[:, None] * HEAD_DIM + dims[None, :], mask=there, other=0.0)
    scales = tl.exp2(maximum - tl.max(maximum, axis=0))
    result = tl.sum(part * scales[:, None], axis=0) / tl.sum(weight * scales, axis=0)
    row = tl.load(tile_rows + tile).to(tl.int64)
    items = row * out_row_stride + head * HEAD_DIM + dims
    tl.store(out + items, result.to(out.dtype.element_ty), mask=dims < HEAD_DIM)
