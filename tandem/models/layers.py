"""Layers that act on each row (token) by itself.

Rows are bit-stable: what a row becomes does not depend on the rows beside it or on the number of
threads. `Linear` has this from `ROW_MULTIPLE` rows on and in multiples of it, because BLAS takes
other kernels, with another order of summation, for the one to three rows of a remainder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ROW_MULTIPLE = 4


def padded_rows(num_rows: int) -> int:
    """`num_rows`, rounded up to what `Linear` is bit-stable for."""
    return -(-num_rows // ROW_MULTIPLE) * ROW_MULTIPLE


@dataclass(frozen=True, slots=True)
class Linear:
    """`weight` [out, in], `bias` [out]."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""
        return functional.linear(x, self.weight, self.bias)


def rms_norm(x: Tensor, eps: float, weight: Tensor) -> Tensor:
    """Scale the last dimension to a root mean square of 1, then by `weight` (broadcast)."""
    return functional.rms_norm(x, (x.shape[-1],), eps=eps) * weight


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    if x.dtype != torch.float32:
        return functional.silu(x)
    # torch's float32 kernel computes the odd end of each thread's share with another exp, so its
    # bits depend on the number of threads; `exp` alone has the same bits everywhere.
    divisor = x.neg().exp_().add_(1)
    return torch.div(x, divisor, out=divisor)


def silu_and_mul(x: Tensor) -> Tensor:
    """Gate and up projection side by side, [rows, 2 * n] -> [rows, n]."""
    gate, up = x.chunk(2, dim=-1)
    return silu(gate).mul_(up)
