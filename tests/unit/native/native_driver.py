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


def linear(kernels: Kernels, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """rows [rows, k] times weight [n, k], in float32."""
    return multiply(kernels, packer(kernels).linear(weight, bias), rows)


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


def unpacked(kernels: Kernels, packed: PackedLinear, k: int) -> Tensor:
    """Quantised weights [n, k] as they count, from what `quantized.h` says of panels."""
    num_groups, quads_per_word = -(-k // GROUP), 8 // packed.bits
    panels = packed.panels.view(np.uint32).reshape(
        -1, num_groups, 1 + GROUP // 4 // quads_per_word, kernels.width
    )
    scales, words = panels[:, :, 0], panels[:, :, 1:]
    shifts = [
        8 * byte + packed.bits * place for place in range(quads_per_word) for byte in range(4)
    ]
    codes = np.stack([words >> shift & (1 << packed.bits) - 1 for shift in shifts], 3)
    scale = (scales << 16).view(np.float32)[:, :, None, None].astype(np.float64)
    offset = (scales & 0xFFFF0000).view(np.float32)[:, :, None, None].astype(np.float64)
    weight = np.moveaxis(codes * scale + offset, 4, 1).reshape(-1, num_groups * GROUP)
    return torch.from_numpy(weight)[: packed.n, :k]
