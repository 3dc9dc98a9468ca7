"""Copies between a pool on a GPU and host memory, beside the kernels that compute."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from tandem.engine.torch.kv_copies import BlockTable, Bytes
from tandem.engine.torch.triton_kernels import copy_blocks

# A token's items are moved as the widest words that divide them.
WORDS = (torch.int64, torch.int32, torch.int16)
PROGRAM_WORDS = 1024


class DeviceCopies:
    """Over a pool on a GPU: one kernel that gathers blocks, or scatters them, across the bus,
    straight to or from pinned memory.

    Each transfer thread has a CUDA stream and pinned memory of its own, which wait for no kernel:
    what is read must be in the pool. So a layer's KV leaves while the next layers run; and these
    wait for no copy. Whoever calls waits, without the GIL, until its bytes are there: a step that
    is launched after a write sees what it wrote.
    """

    def __init__(self, items: Tensor) -> None:
        """`items`: `[planes, layers, num_blocks, block_size, ...]`."""
        self._block_size = items.shape[3]
        token_bytes = items[0, 0, 0, 0].numel() * items.dtype.itemsize
        self._word = next(each for each in WORDS if token_bytes % each.itemsize == 0)
        self._token_words = token_bytes // self._word.itemsize
        # [planes, layers, words of all blocks], over the same memory.
        words = items.flatten(2).view(self._word)
        # Of each plane, from each layer on: Python takes longer for a frame than its bytes do.
        self._from_layer = [[plane[layer:] for layer in range(len(plane))] for plane in words]
        self._layer_words = words.stride(1)
        self._device = items.device
        self._on_gpu = items.is_cuda
        self._threads = threading.local()
        if self._on_gpu:
            self._compile()

    def _compile(self) -> None:
        """Let Triton compile now, not while a transfer waits: block 0 out and in again."""
        data = np.empty(self._block_size * self._token_words * self._word.itemsize, np.uint8)
        for copy in (self.read, self.write):
            copy(0, range(1), np.zeros(1, np.int64), self._block_size, data)

    def read(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, out: Bytes
    ) -> None:
        staged = self.staging(out.size)
        self.gather(plane, layers, table, num_tokens, staged)
        np.copyto(out, staged.numpy())

    def write(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, data: Bytes
    ) -> None:
        staged = self.staging(data.size)
        np.copyto(staged.numpy(), data)
        self.scatter(plane, layers, table, num_tokens, staged)

    def staging(self, num_bytes: int) -> Tensor:
        """This thread's pinned memory for items: the next call's, too."""
        held: Tensor | None = getattr(self._threads, "items", None)
        if held is None or len(held) < num_bytes:
            held = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._on_gpu)
            self._threads.items = held
        return held[:num_bytes]

    def gather(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, staged: Tensor
    ) -> None:
        """As `read`, to pinned memory."""
        with self._own_stream():
            self._copy(plane, layers, table, num_tokens, staged, read=True)

    def scatter(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, staged: Tensor
    ) -> None:
        """As `write`, from pinned memory."""
        with self._own_stream():
            self._copy(plane, layers, table, num_tokens, staged, read=False)

    def _copy(
        self,
        plane: int,
        layers: range,
        table: BlockTable,
        num_tokens: int,
        staged: Tensor,
        *,
        read: bool,
    ) -> None:
        if not num_tokens or not layers:
            return
        num_blocks = -(-num_tokens // self._block_size)
        blocks = self._staged_table(table[:num_blocks])
        num_words = num_tokens * self._token_words
        copy_blocks[(num_blocks, len(layers))](
            *(self._from_layer[plane][layers.start], staged.view(self._word), blocks, num_words),
            self._layer_words,
            BLOCK_WORDS=self._block_size * self._token_words,
            READ=read,
            ITEMS=PROGRAM_WORDS,
        )

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Queue what is in the block on this thread's stream; leave it when all of that is done."""
        if not self._on_gpu:
            yield
            return
        if not hasattr(self._threads, "stream"):
            self._threads.stream = torch.cuda.Stream(  # type: ignore[no-untyped-call]
                self._device
            )
        stream: torch.cuda.Stream = self._threads.stream
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()

    def _staged_table(self, table: BlockTable) -> Tensor:
        """In this thread's pinned memory, which is as long or longer."""
        held: tuple[Tensor, BlockTable] | None = getattr(self._threads, "table", None)
        if held is None or len(held[1]) < len(table):
            pinned = torch.empty(len(table), dtype=torch.int64, pin_memory=self._on_gpu)
            self._threads.table = held = pinned, pinned.numpy()
        blocks, array = held
        array[: len(table)] = table
        return blocks
