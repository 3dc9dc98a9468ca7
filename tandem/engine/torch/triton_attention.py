"""Attention over a paged KV cache on a GPU, by the kernels of `triton_attention_kernels`.

Bits: a prompt's queries go through their keys in one chain, those of single tokens in splits, whose
number depends on the batch. Both are right, and not the same in the last bit; nor are the matrix
products around them, for which the library takes other kernels for other numbers of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from tandem.engine.torch.triton_attention_kernels import (
    attend_prompt,
    attend_split,
    merge_splits,
)
from tandem.engine.torch.triton_chain import chained

# Rows (queries x heads of a group) of a program's tile, in prompts.
PROMPT_ROWS = 64
# Keys of its tile, or half of them where a key has more bytes: some GPUs have 99 KiB for a program.
PROMPT_KEY_TILE = 64
MAX_KEY_BYTES = 256
PROMPT_LAUNCH = {"num_warps": 4, "num_stages": 2}
# The fewest rows that the matrix units take.
MIN_ROWS = 16
SPLIT_KEY_TILE = 32
SPLIT_LAUNCH = {"num_warps": 1, "num_stages": 2}
# Single tokens: programs enough to fill a large GPU several times, so that they end together.
SPLIT_PROGRAMS = 1024
MIN_SPLITS, MAX_SPLITS = 2, 64


@dataclass(frozen=True, slots=True)
class QueryTiles:
    """Which queries the programs of a step compute. All int32, on the device.

    A tile is some consecutive tokens of one sequence: `rows` [tiles] is the first one's row in the
    step, `lengths` [tiles] their number (0 for none), `positions` [tiles] the first one's position.
    `tables` [tiles, blocks at the most], in any order in memory, are the sequences' block tables.
    At most `num_queries` are in a tile.
    """

    rows: Tensor
    lengths: Tensor
    positions: Tensor
    tables: Tensor
    num_queries: int


def queries_of(group: int) -> int:
    """How many tokens a tile of a prompt has, if so many query heads share a KV head."""
    return max(2, PROMPT_ROWS // group)


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: QueryTiles,
    window: int | None,
    out: Tensor,
    *,
    is_chained: bool = False,
) -> None:
    """Let the queries of `tiles`, in `q` [rows, num_heads, head_dim], attend to the keys up to
    their own position; the result goes to their rows of `out`, of `q`'s shape.

    `keys` and `values` are a layer's `[num_blocks, block_size, num_kv_heads, head_dim]`. With a
    `window`, a query sees that many keys at the most. A row's items must lie side by side.
    `is_chained` (`triton_chain`) is for tiles of single tokens.
    """
    num_kv_heads, head_dim = keys.shape[2:]
    shape = {
        "WINDOW": window or 0,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
    }
    group = q.shape[1] // num_kv_heads
    paging = {"BLOCK_SIZE": keys.shape[1], "GROUP": group, **shape}
    where = (tiles.rows, tiles.lengths, tiles.positions)
    # Scores are base-2 logarithms, for which GPUs have an instruction.
    scale = head_dim**-0.5 * math.log2(math.e)
    strides = (*keys.stride()[:3], *tiles.tables.stride())
    num_tiles = len(tiles.rows)
    if tiles.num_queries > 1:
        num_rows = max(MIN_ROWS, triton.next_power_of_2(tiles.num_queries * group))
        attend_prompt[(num_tiles, num_kv_heads)](
            *(q, keys, values, out, *where, tiles.tables, scale, q.stride(0), out.stride(0)),
            *strides,
            KEY_TILE=prompt_key_tile(shape["PADDED_DIM"] * keys.itemsize),
            NUM_ROWS=num_rows,
            **paging,
            **PROMPT_LAUNCH,
        )
        return
    num_splits = splits_of(num_tiles * num_kv_heads)
    left = (num_tiles, q.shape[1], num_splits)
    parts = torch.empty((*left, head_dim), dtype=torch.float32, device=q.device)
    weights = torch.empty((*left, 2), dtype=torch.float32, device=q.device)
    attend_split[(num_tiles, num_kv_heads, num_splits)](
        *(q, keys, values, parts, weights, *where, tiles.tables, scale, q.stride(0)),
        *strides,
        KEY_TILE=SPLIT_KEY_TILE,
        NUM_ROWS=max(MIN_ROWS, triton.next_power_of_2(group)),
        **paging,
        **SPLIT_LAUNCH,
        **chained(is_chained),
    )
    merge_splits[(num_tiles, q.shape[1])](
        *(out, parts, weights, *where, out.stride(0)),
        KEY_TILE=SPLIT_KEY_TILE,
        NUM_SPLITS=num_splits,
        **shape,
        num_warps=1,
        **chained(is_chained),
    )


def prompt_key_tile(key_bytes: int) -> int:
    """Keys of so many bytes that a program of a prompt takes at a time."""
    return PROMPT_KEY_TILE if key_bytes <= MAX_KEY_BYTES else PROMPT_KEY_TILE // 2


def splits_of(num_programs: int) -> int:
    """Into how many splits keys are cut where there are so many queries and KV heads: a power of
    two."""
    wanted = triton.next_power_of_2(triton.cdiv(SPLIT_PROGRAMS, num_programs))
    return max(MIN_SPLITS, min(MAX_SPLITS, int(wanted)))
