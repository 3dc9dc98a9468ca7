"""Attention over a paged KV cache on a GPU, by the kernels of `triton_kernels`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from tandem.engine.torch.triton_kernels import attend_tile, merge_splits

SPLIT = 256
KEY_TILE = 64
# The fewest rows that the matrix units take.
MIN_ROWS = 16
# Rows (queries x heads of a group) of a program's tile, in prompts.
PROMPT_ROWS = 64


@dataclass(frozen=True, slots=True)
class QueryTiles:
    """Which queries the programs of a step compute. All int32, on the device.

    A tile is some consecutive tokens of one sequence: `rows` [tiles] is the first one's row in the
    step, `lengths` [tiles] their number, `positions` [tiles] the first one's position. `tables`
    [tiles, blocks at the most] are the sequences' block tables. At most `num_queries` are in a
    tile, and `max_keys` is more than any position.
    """

    rows: Tensor
    lengths: Tensor
    positions: Tensor
    tables: Tensor
    num_queries: int
    max_keys: int


def rows_of(num_queries: int, group: int) -> int:
    """How many rows a program computes for a tile of so many queries."""
    return max(MIN_ROWS, int(triton.next_power_of_2(num_queries * group)))


def attend(
    q: Tensor, keys: Tensor, values: Tensor, tiles: QueryTiles, window: int | None, out: Tensor
) -> None:
    """Let the queries of `tiles`, in `q` [rows, num_heads, head_dim], attend to the keys up to
    their own position; the result goes to their rows of `out`, of `q`'s shape.

    `keys` and `values` are a layer's `[num_blocks, block_size, num_kv_heads, head_dim]`. With a
    `window`, a query sees that many keys at the most. A head's items must lie side by side.
    """
    num_tiles = len(tiles.rows)
    num_kv_heads, head_dim = keys.shape[2:]
    group = q.shape[1] // num_kv_heads
    num_rows = rows_of(tiles.num_queries, group)
    splits_apart = tiles.num_queries == 1
    num_splits = triton.cdiv(tiles.max_keys, SPLIT) if splits_apart else 1
    # Of each split: its result, the maximum and the sum of its weights.
    left = (num_tiles, num_kv_heads, num_splits, group) if splits_apart else (1, 1, 1, 1)
    parts = torch.empty((*left, head_dim), dtype=torch.float32, device=q.device)
    weights = torch.empty((*left, 2), dtype=torch.float32, device=q.device)
    shape = {
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "GROUP": group,
        "NUM_ROWS": num_rows,
    }
    attend_tile[(num_tiles, num_kv_heads, num_splits)](
        *(q, keys, values, out, parts, weights),
        *(tiles.rows, tiles.lengths, tiles.positions, tiles.tables),
        *(head_dim**-0.5, q.stride(0), q.stride(1), out.stride(0), out.stride(1)),
        *(keys.stride(0), keys.stride(1), keys.stride(2), tiles.tables.stride(0)),
        BLOCK_SIZE=keys.shape[1],
        WINDOW=window or 0,
        SPLITS_APART=splits_apart,
        SPLIT=SPLIT,
        KEY_TILE=KEY_TILE,
        **shape,
    )
    if splits_apart:
        merge_splits[(num_tiles, num_kv_heads)](
            *(out, parts, weights, tiles.rows, tiles.lengths, tiles.positions),
            *(out.stride(0), out.stride(1), num_splits),
            WINDOW=window or 0,
            SPLIT=SPLIT,
            **shape,
        )
