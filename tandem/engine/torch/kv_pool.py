"""The paged KV cache as one tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import KVPool, KVRead, KVWrite
from tandem.engine.torch.kv_copies import BlockTable, HostCopies, KVCopies, exact_bytes
from tandem.engine.torch.packed_weights import aligned_zeros
from tandem.engine.torch.pages_ahead import PagesAhead
from tandem.native.library import Kernels


class TorchKVPool(KVPool):
    """A `KVPool` over `[planes, layers, num_blocks, block_size, num_kv_heads, head_items]`."""

    def __init__(
        self,
        layout: KVLayout,
        num_blocks: int,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """With `kernels`, in the host's memory, its pages are had before they are needed."""
        self._layout = layout
        self._num_blocks = num_blocks
        shape = (
            len(Plane),
            layout.num_layers,
            num_blocks + 1,
            layout.block_size,
            layout.num_kv_heads,
            layout.head_items,
        )
        self._items = _zeros(shape, getattr(torch, layout.dtype), device)
        self.copies = _copies(self._items)
        layers = [self.layer(plane, layer) for plane in Plane for layer in range(layout.num_layers)]
        self._pages = PagesAhead(kernels, layers) if kernels else None

    @property
    def layout(self) -> KVLayout:
        return self._layout

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    @property
    def spare_block(self) -> int:
        """A block behind the others that no sequence ever has: for the KV of rows that only fill a
        batch up."""
        return self._num_blocks

    def layer(self, plane: Plane, layer: int) -> Tensor:
        """The live items [num_blocks + 1, block_size, num_kv_heads, head_items] of a layer."""
        return self._items[plane - 1, layer]

    def used(self, block: int) -> None:
        """A block is written to. Callable from any thread."""
        if self._pages:
            self._pages.used(block)

    def use_idle_time(self) -> bool:
        """Have a little more of its memory from the system; False if there is enough."""
        return self._pages is not None and self._pages.go_further()

    def close(self) -> None:
        """It is not used any more."""
        if self._pages:
            self._pages.close()

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> KVRead:
        """Raises ValueError if there is no such region."""
        table = self._checked_table(layers, blocks, num_tokens)
        return self.copies.begin_read(plane - 1, layers, table, num_tokens)

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> KVWrite:
        """Raises ValueError if there is no such region, or if `data` has not exactly its bytes."""
        table = self._checked_table(layers, blocks, num_tokens)
        items = exact_bytes(data, len(layers) * num_tokens * self._layout.token_bytes)
        if len(table):
            self.used(int(table.max()))
        return self.copies.begin_write(plane - 1, layers, table, num_tokens, items)

    def _checked_table(self, layers: range, blocks: Sequence[int], num_tokens: int) -> BlockTable:
        table = np.asarray(blocks, dtype=np.int64)
        if not 0 <= num_tokens <= len(table) * self._layout.block_size:
            raise ValueError(f"{num_tokens} tokens in {len(table)} blocks")
        if len(table) and not 0 <= table.min() <= table.max() < self._num_blocks:
            raise ValueError(f"blocks {list(blocks)} of {self._num_blocks}")
        if layers.step != 1 or not 0 <= layers.start <= layers.stop <= self._layout.num_layers:
            raise ValueError(f"{layers} of {self._layout.num_layers} layers")
        return table


def _copies(items: Tensor) -> KVCopies:
    if items.device.type == "cpu":
        return HostCopies(items)
    # Not above: Triton is there only with torch's builds for GPUs.
    from tandem.engine.torch.device_copies import DeviceCopies

    return DeviceCopies(items)


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # torch would write the zeros, which takes seconds and holds memory that perhaps nobody needs.
    memory = aligned_zeros(math.prod(shape) * dtype.itemsize)
    return torch.from_numpy(memory).view(dtype).view(shape)
