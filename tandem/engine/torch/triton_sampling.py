"""Sampling from whole vocabularies on a GPU, by the kernels of `triton_sampling_kernels`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from tandem.engine.torch import triton_sampling_kernels as kernels
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow
from tandem.engine.torch.uploads import upload

# So many programs read a vocabulary that one row keeps most of a GPU busy.
ITEMS = 1024
NUM_WARPS = 8
# Of one program, which reads a vocabulary some times.
KEPT_ITEMS, KEPT_WARPS = 4096, 16


def draw(logits: Tensor, rows: Sequence[SampleRow], indices: Sequence[int], tokens: Tensor) -> None:
    """Put the tokens of the rows `indices` of `logits` [rows, vocab_size], of any float type, into
    int64 `tokens` [rows]: a greedy one takes the likeliest of all, another draws from all by its
    temperature. `NO_TOKEN` where a logit is no number or endlessly high, or none is finite."""
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
    keys = [
        row.key if temperature else 0 for row, temperature in zip(chosen, temperatures, strict=True)
    ]
    columns = (
        np.asarray(indices, np.int64),
        np.asarray(temperatures, np.float64),
        np.asarray(keys, np.uint64),
    )
    return _moved(columns, device)


def _moved(columns: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Columns of 64 bits an item, as int64, in one copy."""
    return upload(torch.from_numpy(np.stack([each.view(np.int64) for each in columns])), device)


def draw_kept(scores: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The tokens [rows] that are drawn from what filters keep of float64 `scores`
    [rows, vocab_size], which are by temperature already; `NO_TOKEN` where nothing is left. No row
    has both, a top-k and a top-p."""
    num_rows, num_items = scores.shape
    params = [row.spec.params for row in rows]
    likeliest = scores.amax(dim=-1, keepdim=True)
    weights = (scores - likeliest).exp_()
    columns = (
        np.asarray([row.key for row in rows], np.uint64),
        np.asarray([each.top_k or num_items for each in params], np.int64),
        np.asarray([each.top_p for each in params], np.float64),
        np.asarray([math.log(each.min_p) if each.min_p > 0 else -math.inf for each in params]),
    )
    asked = _moved(columns, scores.device)
    noisy = torch.empty_like(scores)
    kernels.add_noise[(num_rows, triton.cdiv(num_items, ITEMS))](
        *(scores, asked, noisy, num_items), ITEMS=ITEMS, num_warps=NUM_WARPS
    )
    tokens = torch.empty(num_rows, dtype=torch.int64, device=scores.device)
    kernels.draw_kept[(num_rows,)](
        *(scores, noisy, weights, likeliest, asked, tokens, num_rows, num_items),
        NO_TOKEN=NO_TOKEN,
        ITEMS=KEPT_ITEMS,
        num_warps=KEPT_WARPS,
    )
    return tokens
