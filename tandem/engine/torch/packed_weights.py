"""Weights as the native kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tandem.models.layers import Linear
from tandem.native import structs
from tandem.native.library import Kernels

CACHE_LINE = 64


def aligned_empty(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that begins at a cache line. numpy asks for huge pages where it is large."""
    raw = np.empty(num_bytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + num_bytes]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A projection in panels (`matmul.h`), of `n` outputs and `depth` words of inputs; a bias in
    float32, padded to whole panels."""

    panels: NDArray[np.uint8]
    bias: Tensor | None
    n: int
    depth: int

    def struct(self) -> structs.Linear:
        """Valid as long as this object lives."""
        bias = None if self.bias is None else self.bias.data_ptr()
        return structs.Linear(self.panels.ctypes.data, bias, self.n, self.depth)


class KernelPacker:
    """A `Packer` for the native kernels."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        n, k = weight.shape
        weight = weight.contiguous()
        panels = aligned_empty(self._kernels.padded(n) * k * weight.dtype.itemsize)
        self._kernels.functions.tandem_pack(
            weight.dtype == torch.bfloat16, panels.ctypes.data, weight.data_ptr(), n, k
        )
        padded = None if bias is None else self.padded(bias)
        return PackedLinear(panels, padded, n, k * weight.dtype.itemsize // 4)

    def gated(self, gate: Linear, up: Linear) -> PackedLinear:
        """A panel of gates, then the panel of what they gate, and so on."""
        weight = self._alternating([gate.weight, up.weight])
        if gate.bias is None or up.bias is None:
            return self.linear(weight, None)
        return self.linear(weight, self._alternating([gate.bias, up.bias]))

    def padded(self, vector: Tensor) -> Tensor:
        """In float32, with zeros to whole panels."""
        missing = self._kernels.padded(len(vector)) - len(vector)
        return functional.pad(vector.float(), (0, missing))

    def _alternating(self, tensors: Sequence[Tensor]) -> Tensor:
        n = len(tensors[0])
        padding = tensors[0].new_zeros(self._kernels.padded(n) - n, *tensors[0].shape[1:])
        shape = (-1, self._kernels.width, *tensors[0].shape[1:])
        panels = [torch.cat([each, padding]).view(shape) for each in tensors]
        return torch.stack(panels, 1).flatten(0, 2)
