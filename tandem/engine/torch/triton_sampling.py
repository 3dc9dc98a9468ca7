"""Sampling from whole vocabularies on a GPU, by the kernels of `triton_sampling_kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
from torch import Tensor

from tandem.engine.torch import triton_sampling_kernels as kernels
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow
from tandem.engine.torch.uploads import upload

# So many programs read a vocabulary that one row keeps most of a GPU busy.
ITEMS = 1024
NUM_WARPS = 8


def draw(logits: Tensor, rows: Sequence[SampleRow], indices: Sequence[int], tokens: Tensor) -> None:
    """Put the tokens of the rows `indices` of `logits` [rows, vocab_size], in float32 or float64,
    into int64 `tokens` [rows]: a greedy one takes the likeliest of all, another draws from all by
    its temperature. `NO_TOKEN` where a logit is no number or endlessly high, or none is finite."""
    num_items = logits.shape[1]
    num_rows, num_parts = len(indices), triton.cdiv(num_items, ITEMS)
    asked = _asked(rows, indices, logits.device)
    scores = torch.empty(num_rows, num_parts, dtype=torch.float64, device=logits.device)
    token_ids = torch.empty(num_rows, num_parts, dtype=torch.int32, device=logits.device)
    kernels.draw[(num_rows, num_parts)](
        *(logits, asked, scores, token_ids, num_rows, num_items, logits.stride(0)),
        ITEMS=ITEMS,
        num_warps=NUM_WARPS,
    )
    kernels.choose[(num_rows,)](
        *(asked, scores, token_ids, tokens, num_parts),
        NO_TOKEN=NO_TOKEN,
        PARTS=triton.next_power_of_2(num_parts),
    )


def _asked(rows: Sequence[SampleRow], indices: Sequence[int], device: torch.device) -> Tensor:
    """`asked` of the kernels, in one copy."""
    chosen = [rows[index] for index in indices]
    temperatures = [0.0 if row.is_greedy else row.spec.params.temperature for row in chosen]
    keys = [0 if row.is_greedy else row.key for row in chosen]
    columns = (
        np.asarray(indices, np.int64),
        np.asarray(temperatures, np.float64).view(np.int64),
        np.asarray(keys, np.uint64).view(np.int64),
    )
    return upload(torch.from_numpy(np.stack(columns)), device)
