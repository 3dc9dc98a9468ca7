"""Weights as the native kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tandem.core.quantization import Quantization
from tandem.models.layers import Linear
from tandem.native import structs
from tandem.native.library import Kernels

CACHE_LINE = 64


def aligned_empty(num_bytes: int) -> NDArray[np.uint8]:
    """Memory that begins at a cache line. numpy asks for huge pages where it is large."""
    return _aligned(np.empty(num_bytes + CACHE_LINE, np.uint8))


def aligned_zeros(num_bytes: int) -> NDArray[np.uint8]:
    """Likewise. Its zeros are the kernel's, page by page as they are used."""
    return _aligned(np.zeros(num_bytes + CACHE_LINE, np.uint8))


def _aligned(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : len(raw) - CACHE_LINE + start]


class Arena:
    """Memory for all weights of a model, handed out in order. Without any it only counts."""

    def __init__(self, memory: NDArray[np.uint8] | None = None) -> None:
        self._memory = memory
        self.size = 0

    def take(self, num_bytes: int) -> NDArray[np.uint8]:
        """The next so many bytes, from a cache line on; none if there is no memory."""
        start = self.size
        self.size += -(-num_bytes // CACHE_LINE) * CACHE_LINE
        if self._memory is None:
            return np.empty(0, np.uint8)
        return self._memory[start : start + num_bytes]


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A projection in panels (`matmul.h`), of `n` outputs and `depth` words of inputs, quantised
    to `bits` or, if that is 0, not; multiplied by AMX's tiles or not; a bias in float32, padded to
    whole panels."""

    panels: NDArray[np.uint8]
    bias: Tensor | None
    n: int
    depth: int
    bits: int
    by_tiles: bool

    def struct(self) -> structs.Linear:
        """Valid as long as this object lives."""
        bias = None if self.bias is None else self.bias.data_ptr()
        panels = self.panels.ctypes.data
        return structs.Linear(panels, bias, self.n, self.depth, self.bits, self.by_tiles)


class KernelPacker:
    """A `Packer` for the native kernels, into an arena. Tensors on torch's `meta` device take their
    place there and leave in it what it holds: weights that were packed before."""

    def __init__(self, kernels: Kernels, quantization: Quantization, arena: Arena) -> None:
        self._kernels = kernels
        self._quantization = quantization
        self._arena = arena

    def linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        return self._linear(weight, bias, self._quantization.bits)

    def gated(self, gate: Linear, up: Linear) -> PackedLinear:
        """A panel of gates, then the panel of what they gate, and so on."""
        weight = self._alternating([gate.weight, up.weight])
        if gate.bias is None or up.bias is None:
            return self.linear(weight, None)
        return self.linear(weight, self._alternating([gate.bias, up.bias]))

    def vocabulary(
        self, embedding: Tensor, lm_head: Tensor | None
    ) -> tuple[PackedLinear, PackedLinear]:
        """Embeddings are looked up, not multiplied: they are not quantised. Of the head, whose
        outputs are compared with each other, 8 bits are kept."""
        packed = self._linear(embedding, None, 0)
        if self._quantization is not Quantization.NONE:
            return packed, self._linear(embedding if lm_head is None else lm_head, None, 8)
        return packed, packed if lm_head is None else self._linear(lm_head, None, 0)

    def vector(self, vector: Tensor) -> Tensor:
        """Flat, in float32, with zeros to whole panels."""
        vector = vector.flatten()
        memory = self._arena.take(4 * self._kernels.padded(len(vector)))
        packed = memory.view(np.float32)
        if not vector.is_meta:
            packed[:] = 0
            packed[: len(vector)] = vector.float()
        # A copy: torch has no tensors that cannot be written.
        return torch.from_numpy(packed.copy())

    def _linear(self, weight: Tensor, bias: Tensor | None, bits: int) -> PackedLinear:
        n, k = weight.shape
        is_bfloat16, functions = weight.dtype == torch.bfloat16, self._kernels.functions
        if bits:
            panels = self._arena.take(functions.tandem_quantized_bytes(bits, n, k))
        else:
            panels = self._arena.take(self._kernels.padded(n) * k * weight.itemsize)
        if not weight.is_meta:
            weight = weight.contiguous()
            arguments = (panels.ctypes.data, weight.data_ptr(), n, k)
            if bits:
                functions.tandem_quantize(is_bfloat16, bits, *arguments)
            else:
                functions.tandem_pack(is_bfloat16, *arguments)
        packed = None if bias is None else self.vector(bias)
        by_tiles = self._kernels.has_tiles and is_bfloat16 and not bits
        return PackedLinear(panels, packed, n, k * weight.itemsize // 4, bits, by_tiles)

    def _alternating(self, tensors: Sequence[Tensor]) -> Tensor:
        n = len(tensors[0])
        if tensors[0].is_meta:
            # Without the operations, which for such tensors import torch's compiler.
            num_rows = len(tensors) * self._kernels.padded(n)
            return tensors[0].new_empty((num_rows, *tensors[0].shape[1:]))
        missing = (0, 0) * (tensors[0].ndim - 1) + (0, self._kernels.padded(n) - n)
        shape = (-1, self._kernels.width, *tensors[0].shape[1:])
        panels = [functional.pad(each, missing).view(shape) for each in tensors]
        return torch.stack(panels, 1).flatten(0, 2)
