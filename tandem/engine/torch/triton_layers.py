"""A decoder's layers on a GPU but the matrix products and attention, by the kernels of
`triton_kernels`. All compute in float32 and round where torch's operations would."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from tandem.engine.torch import triton_kernels as kernels
from tandem.engine.torch.triton_chain import chained

SILU_ITEMS = 1024
# Of prompts, so that a program has enough to do.
ROTATED_ROWS = 16


def embed(token_ids: Tensor, last_tokens: Tensor, weight: Tensor) -> Tensor:
    """[rows, size] of `weight` [vocab_size, size] for int32 `token_ids` [rows]. An id below 0 is
    that of row -1 - id of `last_tokens`, int64."""
    out = weight.new_empty(len(token_ids), weight.shape[1])
    _embed(token_ids, last_tokens, weight, out)
    return out


def embed_scaled(
    token_ids: Tensor,
    last_tokens: Tensor,
    weight: Tensor,
    norm: Tensor,
    num_sums: int,
    *,
    is_chained: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Likewise, and the same scaled by `norm` [size], and the sum of each row's squares, float32
    [rows, num_sums], of which all but the first are 0. `is_chained` (`triton_chain`) to what comes
    behind, as a step's first kernel."""
    shape = len(token_ids), weight.shape[1]
    out, scaled = weight.new_empty(shape), weight.new_empty(shape)
    squares = torch.empty(len(token_ids), num_sums, dtype=torch.float32, device=weight.device)
    _embed(token_ids, last_tokens, weight, out, norm, scaled, squares, is_chained=is_chained)
    return out, scaled, squares


def _embed(
    token_ids: Tensor,
    last_tokens: Tensor,
    weight: Tensor,
    out: Tensor,
    norm: Tensor | None = None,
    scaled: Tensor | None = None,
    squares: Tensor | None = None,
    *,
    is_chained: bool = False,
) -> None:
    size = weight.shape[1]
    num_sums = 0 if squares is None else squares.shape[1]
    kernels.embed[(len(token_ids),)](
        *(token_ids, last_tokens, weight, out, norm, scaled, squares),
        SIZE=size,
        PADDED=triton.next_power_of_2(size),
        SUMS=num_sums,
        PADDED_SUMS=triton.next_power_of_2(num_sums),
        CHAINED=is_chained,
    )


def add_rms_norm(hidden: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """The norm of `hidden` [rows, size], after `delta`, of its shape, is added to it in place."""
    size = hidden.shape[1]
    out = torch.empty_like(hidden)
    kernels.add_rms_norm[(len(hidden),)](
        *(hidden, delta, weight, out, eps),
        HAS_DELTA=delta is not None,
        SIZE=size,
        PADDED=triton.next_power_of_2(size),
        num_warps=8 if size > 1024 else 4,
    )
    return out


def rotate_and_store(
    qkv: Tensor,
    tables: tuple[Tensor, Tensor],
    positions: Tensor,
    slots: Tensor,
    qk_norm: Tensor | None,
    eps: float,
    keys: Tensor,
    values: Tensor,
    *,
    is_chained: bool = False,
) -> None:
    """Rotate the queries in `qkv` [rows, num_heads + 2 num_kv_heads, head_dim] in place; put its
    keys, rotated, and its values into a layer's `keys` and `values` [num_blocks, block_size,
    num_kv_heads, head_dim], at int32 `slots` [rows]. `tables` are the cosines and the signed sines
    of `RotaryEmbedding`; `qk_norm` [num_heads + num_kv_heads, head_dim] are the weights of a norm
    before."""
    num_rows, num_all, head_dim = qkv.shape
    num_kv_heads = keys.shape[2]
    rows = min(ROTATED_ROWS, triton.next_power_of_2(num_rows))
    kernels.rotate_and_store[(triton.cdiv(num_rows, rows), num_all)](
        *(qkv, *tables, positions, slots, qk_norm, keys, values, num_rows, eps),
        *(qkv.stride(0), keys.stride(1), keys.stride(2)),
        HAS_NORM=qk_norm is not None,
        NUM_HEADS=num_all - 2 * num_kv_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        PADDED_HALF=triton.next_power_of_2(head_dim // 2),
        ROWS=rows,
        num_warps=4 if rows > 1 else 1,
        **chained(is_chained),
    )


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Gate and up projection side by side, [rows, 2 * n] -> [rows, n]."""
    num_rows, size = len(gate_up), gate_up.shape[1] // 2
    out = torch.empty(num_rows, size, dtype=gate_up.dtype, device=gate_up.device)
    kernels.silu_and_mul[(num_rows, triton.cdiv(size, SILU_ITEMS))](
        gate_up, out, SIZE=size, ITEMS=SILU_ITEMS
    )
    return out
