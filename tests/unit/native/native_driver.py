"""Calls the kernels' products on torch's tensors."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from torch import Tensor

from tandem.core.quantization import Quantization
from tandem.engine.torch.packed_weights import Arena, KernelPacker, PackedLinear, aligned_empty
from tandem.engine.torch.threads import team
from tandem.native.library import Kernels

# Relative to the largest of a result: float32's sums, and what is rounded to bfloat16 on the way.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}
DTYPES = tuple(TOLERANCE)
ARENA_BYTES = 2**24
# Neighbours along k of a quantised weight that share a scale and an offset.
GROUP = 32


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (actual.double() - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCE[dtype], f"off by {error:.1e}"


def packer(kernels: Kernels, quantization: Quantization = Quantization.NONE) -> KernelPacker:
    return KernelPacker(kernels, quantization, Arena(aligned_empty(ARENA_BYTES)))


def linear(
    kernels: Kernels,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    quantization: Quantization = Quantization.NONE,
) -> Tensor:
    """rows [rows, k] times weight [n, k], in float32."""
    return multiply(kernels, packer(kernels, quantization).linear(weight, bias), rows)


def multiply(kernels: Kernels, packed: PackedLinear, rows: Tensor) -> Tensor:
    output = torch.full((len(rows), packed.n), torch.nan)
    kernels.functions.tandem_linear(
        rows.dtype == torch.bfloat16,
        ctypes.byref(team()),
        ctypes.byref(packed.struct()),
        rows.data_ptr(),
        len(rows),
        output.data_ptr(),
    )
    return output


def unpacked(
    kernels: Kernels, packed: PackedLinear, dtype: torch.dtype, factor: torch.dtype | None = None
) -> Tensor:
    """Quantised weights [n, k] of a model in `dtype` as they count, in what products multiply by
    (`factor`; else `dtype`), from what `quantized.h` says of panels."""
    k = packed.depth * 4 // dtype.itemsize
    num_codes = 32 // packed.bits
    words = iter(
        packed.panels.view(np.uint32)
        .reshape(-1, _words(k, num_codes), kernels.width)
        .swapaxes(0, 1)
    )
    columns = []
    for start in range(0, k, GROUP):
        pair = next(words)
        scale, offset = (pair << 16).view(np.float32), (pair & 0xFFFF0000).view(np.float32)
        for first in range(start, min(k, start + GROUP), num_codes):
            codes = next(words)
            for index in range(min(num_codes, k - first)):
                code = codes >> packed.bits * index & (1 << packed.bits) - 1
                columns.append(code * scale.astype(np.float64) + offset)
    weight = np.stack(columns, -1).astype(np.float32).reshape(-1, k)
    return torch.from_numpy(weight)[: packed.n].to(factor or dtype)


def _words(k: int, num_codes: int) -> int:
    return -(-k // GROUP) + -(-k // num_codes)
