"""The paged KV cache as one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tandem.core.kv import KVLayout, Plane

# Tokens are moved as items of the widest type that divides them: several times faster than as
# their own, because torch moves an indexed item at a time.
MOVED_DTYPES = (torch.complex128, torch.int64, torch.int32, torch.int16)

CACHE_LINE = 64


class TorchKVPool:
    """A `KVPool` over `[planes, layers, num_blocks, block_size, num_kv_heads, head_dim]`.

    On a GPU all work goes to the default stream, in the engine's thread as in transfer threads. So
    a read is ordered after every kernel launched before it, and sees the KV that they store.
    """

    def __init__(self, layout: KVLayout, num_blocks: int, device: torch.device) -> None:
        self._layout = layout
        self._num_blocks = num_blocks
        # Zeros, because attention reads whole blocks: what it masks must still be finite.
        shape = (
            len(Plane),
            layout.num_layers,
            num_blocks,
            layout.block_size,
            layout.num_kv_heads,
            layout.head_dim,
        )
        self._items = _zeros(shape, getattr(torch, layout.dtype), device)
        moved = next(each for each in MOVED_DTYPES if layout.token_bytes % each.itemsize == 0)
        # [planes, layers, tokens, items of a token], over the same memory.
        self._tokens = self._items.flatten(4).flatten(2, 3).view(moved)

    @property
    def layout(self) -> KVLayout:
        return self._layout

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    def layer(self, plane: Plane, layer: int) -> Tensor:
        """The live items [num_blocks, block_size, num_kv_heads, head_dim] of a layer."""
        return self._items[plane - 1, layer]

    def read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> memoryview:
        """A copy of the items, as bytes. Raises ValueError if there is no such region."""
        slots = self._slots(layers, blocks, num_tokens)
        tokens = self._region(plane, layers).index_select(1, slots).cpu()
        return tokens.view(-1).view(torch.uint8).numpy().data

    def write(
        self,
        plane: Plane,
        layers: range,
        blocks: Sequence[int],
        num_tokens: int,
        data: memoryview,
    ) -> None:
        """Store the items. Raises ValueError if there is no such region, or if `data` has not
        exactly its bytes."""
        slots = self._slots(layers, blocks, num_tokens)
        expected = len(layers) * num_tokens * self._layout.token_bytes
        if data.nbytes != expected:
            raise ValueError(f"{data.nbytes} bytes for a region of {expected}")
        # A copy, because `data` may be read-only and lie at any address.
        tokens = torch.empty(expected, dtype=torch.uint8)
        np.copyto(tokens.numpy(), np.frombuffer(data, np.uint8))
        region = self._region(plane, layers)
        tokens = tokens.view(region.dtype).view(len(layers), num_tokens, region.shape[2])
        region.index_copy_(1, slots, tokens.to(region.device))

    def _region(self, plane: Plane, layers: range) -> Tensor:
        return self._tokens[plane - 1, layers.start : layers.stop]

    def _slots(self, layers: range, blocks: Sequence[int], num_tokens: int) -> Tensor:
        """The places of the region's tokens in a layer."""
        if layers.step != 1 or not 0 <= layers.start <= layers.stop <= self._layout.num_layers:
            raise ValueError(f"{layers} of {self._layout.num_layers} layers")
        table = np.asarray(blocks, dtype=np.int64)
        if not 0 <= num_tokens <= len(table) * self._layout.block_size:
            raise ValueError(f"{num_tokens} tokens in {len(table)} blocks")
        if len(table) and not 0 <= table.min() <= table.max() < self._num_blocks:
            raise ValueError(f"blocks {list(blocks)} of {self._num_blocks}")
        offsets = np.arange(self._layout.block_size)
        slots = (table[:, None] * self._layout.block_size + offsets).reshape(-1)[:num_tokens]
        return torch.from_numpy(slots).to(self._items.device)


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy leaves the zeros to the kernel, page by page as they are used; torch would write them
    # all, which takes seconds and holds memory that perhaps nobody needs.
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.zeros(num_bytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return torch.from_numpy(raw[start : start + num_bytes]).view(dtype).view(shape)
