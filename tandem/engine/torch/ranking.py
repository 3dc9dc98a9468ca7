"""Ranks of scores, with ties that fall the same way everywhere: the lowest id first."""

from __future__ import annotations

import torch
from torch import Tensor


def highest(scores: Tensor, count: int) -> Tensor:
    """The ids of the `count` highest scores, from the highest down."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    least = scores.topk(count).values[-1]
    return ranked(scores, ~(scores < least))[:count]


def ranked(scores: Tensor, chosen: Tensor) -> Tensor:
    """The ids that the mask `chosen` leaves (made by `~(a < b)`, so that NaN leaves all), from the
    highest score down."""
    token_ids = chosen.nonzero().squeeze(1)
    return token_ids[scores[token_ids].sort(descending=True, stable=True).indices]
