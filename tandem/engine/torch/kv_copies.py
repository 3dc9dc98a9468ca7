"""Copies of whole leading parts of blocks, out of a pool and into it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.engine.kv_copy import LateRead, Stored
from tandem.engine.protocols import KVRead, KVWrite

Bytes = NDArray[np.uint8]
BlockTable = NDArray[np.int64]


class KVCopies(Protocol):
    """Tokens `[0, num_tokens)` of the concatenation of the blocks in `table`, of one plane (counted
    from 0) and a range of layers, all of them inside the pool. Copies are begun and ended as a
    `KVPool`'s."""

    def begin_read(self, plane: int, layers: range, table: BlockTable, num_tokens: int) -> KVRead:
        """Begin to copy the region out."""
        ...

    def begin_write(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, data: Bytes
    ) -> KVWrite:
        """Begin to store `data`, which has exactly the region's bytes, perhaps read-only."""
        ...


def exact_bytes(memory: memoryview, num_bytes: int) -> Bytes:
    """The memory as bytes. Raises ValueError if it has not exactly so many."""
    if memory.nbytes != num_bytes:
        raise ValueError(f"{memory.nbytes} bytes for a region of {num_bytes}")
    return np.frombuffer(memory, np.uint8)


class HostCopies:
    """Over a pool in host memory: straight between it and the caller's bytes, a block at a time.

    numpy moves items of a void type by one memcpy each, to and from any address, and without the
    GIL.
    """

    def __init__(self, items: Tensor) -> None:
        """`items`: `[planes, layers, num_blocks, block_size, ...]`."""
        tokens = items.flatten(4).view(torch.uint8).numpy()
        self._token_bytes = tokens.shape[-1]
        # [planes, layers, num_blocks, bytes of a block]
        self._bytes = tokens.reshape(*tokens.shape[:3], -1)
        self._block = np.dtype((np.void, self._bytes.shape[3]))
        self._blocks = self._bytes.view(self._block)[..., 0]

    def begin_read(self, plane: int, layers: range, table: BlockTable, num_tokens: int) -> LateRead:
        num_bytes = len(layers) * num_tokens * self._token_bytes
        return LateRead(lambda out: self._read(plane, layers, table, exact_bytes(out, num_bytes)))

    def begin_write(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, data: Bytes
    ) -> Stored:
        self._write(plane, layers, table, data)
        return Stored()

    def _read(self, plane: int, layers: range, table: BlockTable, out: Bytes) -> None:
        for layer, row in zip(layers, self._rows(layers, out), strict=True):
            whole, split = self._split(row)
            # The table is checked already; to check it again numpy would copy to a buffer first.
            np.take(
                self._blocks[plane, layer],
                table[:whole],
                out=row[:split].view(self._block),
                mode="clip",
            )
            if split < len(row):
                row[split:] = self._bytes[plane, layer, table[whole], : len(row) - split]

    def _write(self, plane: int, layers: range, table: BlockTable, data: Bytes) -> None:
        for layer, row in zip(layers, self._rows(layers, data), strict=True):
            whole, split = self._split(row)
            self._blocks[plane, layer][table[:whole]] = row[:split].view(self._block)
            if split < len(row):
                self._bytes[plane, layer, table[whole], : len(row) - split] = row[split:]

    @staticmethod
    def _rows(layers: range, data: Bytes) -> Bytes:
        """`[layers, bytes of the tokens]`, a view."""
        return data.reshape(len(layers), -1) if len(layers) else data.reshape(0, 0)

    def _split(self, row: Bytes) -> tuple[int, int]:
        """The number of whole blocks in a layer's bytes, and where they end."""
        whole = len(row) // self._block.itemsize
        return whole, whole * self._block.itemsize
