"""The noise of `tandem.core.noise`, bit for bit, computed on the logits' device."""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.core.noise import GOLDEN, MIX_1, MIX_2


def uniform(keys: Tensor, token_ids: Tensor) -> Tensor:
    """One float64 draw in (0, 1) for each token id (int64), under each `position_key` (its bits as
    int64): of the shape that the two have together."""
    # torch has no unsigned arithmetic: int64 wraps to the same bits, only shifts need a mask.
    value = (token_ids + 1) * _signed(GOLDEN) + keys
    value = (value ^ _shifted(value, 30)) * _signed(MIX_1)
    value = (value ^ _shifted(value, 27)) * _signed(MIX_2)
    value = value ^ _shifted(value, 31)
    return (_shifted(value, 12).double() + 0.5) * 2.0**-52


def gumbel(keys: Tensor, token_ids: Tensor) -> Tensor:
    """The same draws from the standard Gumbel distribution."""
    return -torch.log(-torch.log(uniform(keys, token_ids)))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
