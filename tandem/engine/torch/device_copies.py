"""Copies between a pool on a GPU and host memory, beside the kernels that compute."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from tandem.engine.torch.kv_copies import BlockTable, Bytes

# Tokens are moved as items of the widest type that divides them: several times faster than as
# their own, because torch moves an indexed item at a time.
MOVED_DTYPES = (torch.complex128, torch.int64, torch.int32, torch.int16)


class DeviceCopies:
    """Over a pool on a GPU: gathered and scattered there, and one copy across the bus, from or to
    pinned memory.

    Each transfer thread has a CUDA stream of its own. A read waits for the kernels that store the
    layers it reads, and for none that are queued behind them, so a layer's KV leaves while the next
    layers run; the kernels wait for no copy. Whoever calls waits, without the GIL, until its bytes
    are there: a step that is launched after a write sees what it wrote.
    """

    def __init__(self, items: Tensor) -> None:
        """`items`: `[planes, layers, num_blocks, block_size, ...]`."""
        self._block_size = items.shape[3]
        token_bytes = items[0, 0, 0, 0].numel() * items.dtype.itemsize
        moved = next(each for each in MOVED_DTYPES if token_bytes % each.itemsize == 0)
        # [planes, layers, tokens, items of a token], over the same memory.
        self._tokens = items.flatten(4).flatten(2, 3).view(moved)
        self._on_gpu = items.is_cuda
        self._stored: list[torch.cuda.Event | None] = [None] * items.shape[1]
        self._threads = threading.local()

    def read(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, out: Bytes
    ) -> None:
        region = self._tokens[plane, layers.start : layers.stop]
        staged = self._staging(out.size)
        with self._own_stream(layers):
            tokens = region.index_select(1, self._slots(table, num_tokens))
            staged.copy_(tokens.view(-1).view(torch.uint8), non_blocking=True)
        np.copyto(out, staged.numpy())

    def write(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, data: Bytes
    ) -> None:
        region = self._tokens[plane, layers.start : layers.stop]
        staged = self._staging(data.size)
        np.copyto(staged.numpy(), data)
        tokens = staged.view(region.dtype).view(len(layers), num_tokens, region.shape[2])
        with self._own_stream():
            moved = tokens.to(region.device, non_blocking=True)
            region.index_copy_(1, self._slots(table, num_tokens), moved)

    def stored(self, layer: int) -> None:
        if self._on_gpu:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._tokens.device))
            self._stored[layer] = event

    @contextmanager
    def _own_stream(self, reads: range = range(0)) -> Iterator[None]:
        """Queue what is in the block on this thread's stream, behind the storing of the layers that
        it `reads`; leave the block when all of it is done."""
        if not self._on_gpu:
            yield
            return
        if not hasattr(self._threads, "stream"):
            self._threads.stream = torch.cuda.Stream(  # type: ignore[no-untyped-call]
                self._tokens.device
            )
        stream: torch.cuda.Stream = self._threads.stream
        for layer in reads:
            if (event := self._stored[layer]) is not None:
                stream.wait_event(event)
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()

    def _staging(self, num_bytes: int) -> Tensor:
        """Host memory that the bus can reach by itself: torch keeps what was used before."""
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._on_gpu)

    def _slots(self, table: BlockTable, num_tokens: int) -> Tensor:
        """The places of the tokens in a layer."""
        offsets = np.arange(self._block_size)
        slots = torch.from_numpy((table[:, None] * self._block_size + offsets).reshape(-1))
        slots = slots[:num_tokens]
        if self._on_gpu:
            slots = slots.pin_memory()
        return slots.to(self._tokens.device, non_blocking=True)
