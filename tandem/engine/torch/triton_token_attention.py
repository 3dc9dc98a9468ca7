"""Attention of single tokens over a paged KV cache on a GPU, by the kernel of
`triton_token_kernels`.

What few tokens cost is the latency of kernels, not their work. So one does what is between two
products: it rotates, stores the KV, attends and merges, and loads what it can of older KV before
the product in front has ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from tandem.engine.torch.triton_attention import MIN_ROWS
from tandem.engine.torch.triton_chain import chained
from tandem.engine.torch.triton_token_kernels import attend_tokens

if TYPE_CHECKING:
    from tandem.engine.torch.gpu_decoder import GpuRows

MIN_SPLITS = 2
# Registers of a thread for what is merged at a time.
MERGED_ITEMS = 64


@dataclass(frozen=True, slots=True)
class Splitting:
    """How keys are split: by programs of `num_warps` that take `key_tile` keys at a time, so that
    there are about so many `programs`, into at most `most` splits."""

    key_tile: int
    num_warps: int
    programs: int
    most: int

    def of(self, num_pairs: int) -> int:
        """Into how many, where there are so many pairs of a token and a KV head: a power of two."""
        wanted = triton.next_power_of_2(triton.cdiv(self.programs, num_pairs))
        return max(MIN_SPLITS, min(self.most, int(wanted)))


# Where pairs are few, one tile of keys is all that a program has, up to some thousand.
FEW_PAIRS = 64
FEW = Splitting(key_tile=64, num_warps=4, programs=512, most=32)
MANY = Splitting(key_tile=32, num_warps=1, programs=1024, most=8)


class TokenAttention:
    """Of at most `max_rows` tokens in one model's steps, one after the other."""

    def __init__(self, device: torch.device, max_rows: int, num_kv_heads: int) -> None:
        # How many of a pair's splits have ended: 0 between two launches.
        self._counts = torch.zeros(max_rows * num_kv_heads, dtype=torch.int32, device=device)

    def attend(
        self,
        qkv: Tensor,
        tables: tuple[Tensor, Tensor],
        rows: GpuRows,
        qk_norm: Tensor | None,
        eps: float,
        keys: Tensor,
        values: Tensor,
        window: int | None,
        *,
        is_chained: bool,
    ) -> Tensor:
        """`qkv` [rows, (num_heads + 2 num_kv_heads) * head_dim] -> [rows, num_heads * head_dim]:
        `rotate_and_store`, with arguments as there, and then `attend`. All rows are single tokens,
        each the tile of its own number; those of no length are nobody's, and nothing is written."""
        num_rows = len(qkv)
        num_kv_heads, head_dim = keys.shape[2:]
        group = qkv.shape[1] // head_dim // num_kv_heads - 2
        num_pairs = num_rows * num_kv_heads
        splitting = FEW if num_pairs <= FEW_PAIRS else MANY
        num_splits = splitting.of(num_pairs)
        padded_dim = triton.next_power_of_2(head_dim)
        fitting = MERGED_ITEMS * 32 * splitting.num_warps // (splitting.most * padded_dim)
        (tiles,) = rows.tiles
        out = qkv.new_empty(num_rows, num_kv_heads * group * head_dim)
        left = num_pairs * num_splits * group
        parts = torch.empty(left * head_dim, dtype=torch.float32, device=qkv.device)
        weights = torch.empty(left * 2, dtype=torch.float32, device=qkv.device)
        attend_tokens[(num_rows, num_kv_heads, num_splits)](
            *(qkv, *tables, qk_norm, keys, values, out, parts, weights, self._counts),
            *(rows.positions, rows.slots, tiles.lengths, tiles.tables),
            # Scores are base-2 logarithms, for which GPUs have an instruction.
            *(head_dim**-0.5 * math.log2(math.e), eps),
            *(*keys.stride()[:3], *tiles.tables.stride()),
            HAS_NORM=qk_norm is not None,
            BLOCK_SIZE=keys.shape[1],
            WINDOW=window or 0,
            KEY_TILE=splitting.key_tile,
            HEAD_DIM=head_dim,
            PADDED_DIM=padded_dim,
            GROUP=group,
            # Its own key and value go with the queries.
            NUM_ROWS=max(MIN_ROWS, triton.next_power_of_2(group + 2)),
            SPLITS=splitting.most,
            HEADS=max(1, min(triton.next_power_of_2(group), fitting)),
            num_warps=splitting.num_warps,
            num_stages=2,
            **chained(is_chained),
        )
        return out
