"""Ranks of scores, with ties that fall the same way everywhere: the lowest id first."""

from __future__ import annotations

import torch
from torch import Tensor

HIGHEST_ID = 0x7FFFFFFF


def highest(scores: Tensor, count: int) -> Tensor:
    """The ids [rows, count] of each row's highest of the float32 `scores` [rows, n], which are
    numbers, from the highest down. On a GPU nothing waits for it."""
    if scores.device.type != "cpu":
        return highest_on_device(scores, count)
    return torch.stack([_highest_of_row(each, count) for each in scores])


def highest_on_device(scores: Tensor, count: int) -> Tensor:
    """The same, for all rows at once."""
    # One zero.
    bits = (scores + 0.0).view(torch.int32)
    # Of negative floats the order of their bits is the reverse.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    # Of equal scores the lowest id makes the greatest number.
    ids = torch.arange(scores.shape[1], device=scores.device)
    packed = (ordered.long() << 32) | (HIGHEST_ID - ids)
    return HIGHEST_ID - (packed.topk(count).values & 0xFFFFFFFF)


def _highest_of_row(scores: Tensor, count: int) -> Tensor:
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    least = scores.topk(count).values[-1]
    token_ids = (scores >= least).nonzero().squeeze(1)
    return token_ids[scores[token_ids].sort(descending=True, stable=True).indices][:count]
