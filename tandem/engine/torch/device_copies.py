"""Copies between a pool on a GPU and host memory, beside the kernels that compute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tandem.engine.torch.kv_copies import BlockTable, Bytes, exact_bytes
from tandem.engine.torch.placement import current
from tandem.engine.torch.stored_layers import StoredEvent, record_event
from tandem.engine.torch.triton_kernels import copy_blocks

# A token's items are moved as the widest words that divide them.
WORDS = (torch.int64, torch.int32, torch.int16)
PROGRAM_WORDS = 1024


class CopyStream(Protocol):
    """Makes what is queued, one after the other, beside whoever queues it."""

    def queue(self, launch: Callable[[], None]) -> StoredEvent:
        """Queue what this launches; what tells when it is done. Nothing of it is under way if this
        raises."""
        ...


class DeviceStream:
    """A `CopyStream` of a GPU, which waits for no kernel of another."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def queue(self, launch: Callable[[], None]) -> StoredEvent:
        try:
            # From another GPU's stream torch goes back to the thread's GPU, the first, by a call
            # that takes memory of that one, and fails if it is another process's alone.
            with current(self._stream.device), torch.cuda.stream(self._stream):
                launch()
                return record_event()
        except BaseException:
            self._stream.synchronize()
            raise


class NoStream:
    """A `CopyStream` where Triton interprets."""

    def queue(self, launch: Callable[[], None]) -> StoredEvent:
        launch()
        return self

    def query(self) -> bool:
        """All has been done by whoever queued it."""
        return True

    def synchronize(self) -> None:
        """As `query`."""


class Staging:
    """Pinned memory of one copy at a time, and of later ones, too: its items, and its block table,
    which the kernel reads when its turn comes."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._items = self._empty(0, torch.uint8)
        self._table = self._empty(0, torch.int64)

    def items(self, num_bytes: int) -> Tensor:
        if len(self._items) < num_bytes:
            self._items = self._empty(num_bytes, torch.uint8)
        return self._items[:num_bytes]

    def table(self, blocks: BlockTable) -> Tensor:
        """The table in it, which is as long or longer."""
        if len(self._table) < len(blocks):
            self._table = self._empty(len(blocks), torch.int64)
        self._table.numpy()[: len(blocks)] = blocks
        return self._table

    def _empty(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=self._pinned)


class DeviceCopy:
    """A copy under way, with staging that nobody else has until it is over."""

    def __init__(self, items: Tensor, done: StoredEvent, give_back: Callable[[], None]) -> None:
        """`items` are those in the staging, which `give_back` gives back."""
        self._items = items
        self._done = done
        self._give_back = give_back
        self._is_over = False

    @property
    def is_stored(self) -> bool:
        return self._is_over or self._done.query()

    def close(self) -> None:
        self._finish()

    def _finish(self, use: Callable[[Tensor], None] | None = None) -> None:
        """Wait for it, `use` what is staged, and give the staging back."""
        if self._is_over:
            return
        self._is_over = True
        try:
            self._done.synchronize()
            if use:
                use(self._items)
        finally:
            # Behind an error of the device, too: it copies nothing any more.
            self._give_back()


class DeviceRead(DeviceCopy):
    """A `KVRead` across the bus."""

    def end(self, out: memoryview) -> None:
        items = exact_bytes(out, len(self._items))
        assert not self._is_over, "its items are perhaps another's by now"
        self._finish(lambda staged: np.copyto(items, staged.numpy()))


class DeviceWrite(DeviceCopy):
    """A `KVWrite` across the bus."""

    def end(self) -> None:
        self._finish()


class PerThread(threading.local):
    """What each thread that copies has of its own: its stream, and the staging that no copy has."""

    def __init__(self, new_stream: Callable[[], CopyStream]) -> None:
        self.stream = new_stream()
        self.free: list[Staging] = []


class DeviceCopies:
    """Over a pool on a GPU: one kernel that gathers blocks, or scatters them, across the bus,
    straight to or from pinned memory.

    Each transfer thread has a CUDA stream and pinned memory of its own, which wait for no kernel:
    what is read must be in the pool. So a layer's KV leaves while the next layers run; and these
    wait for no copy. As many copies of a thread may be under way as it has begun and not ended,
    each with staging of its own: while the host copies between one's staging and the caller's
    bytes, the next one's cross the bus.
    """

    def __init__(self, items: Tensor, new_stream: Callable[[], CopyStream] | None = None) -> None:
        """`items`: `[planes, layers, num_blocks, block_size, ...]`. A stream for each thread."""
        self._block_size = items.shape[3]
        self._token_bytes = items[0, 0, 0, 0].numel() * items.dtype.itemsize
        self._word = next(each for each in WORDS if self._token_bytes % each.itemsize == 0)
        # [planes, layers, words of all blocks], over the same memory.
        words = items.flatten(2).view(self._word)
        # Of each plane, from each layer on: Python takes longer for a frame than its bytes do.
        self._from_layer = [[plane[layer:] for layer in range(len(plane))] for plane in words]
        self._layer_words = words.stride(1)
        self._on_gpu = items.is_cuda
        if new_stream is None:
            device = items.device
            new_stream = (lambda: DeviceStream(device)) if self._on_gpu else NoStream
        self._thread = PerThread(new_stream)
        if self._on_gpu:
            self._compile()

    def _compile(self) -> None:
        """Let Triton compile now, not while a transfer waits: block 0 out and in again."""
        data = np.empty(self._block_size * self._token_bytes, np.uint8)
        region = 0, range(1), np.zeros(1, np.int64), self._block_size
        with closing(self.begin_read(*region)) as read:
            read.end(data.data)
        with closing(self.begin_write(*region, data)) as write:
            write.end()

    def begin_read(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int
    ) -> DeviceRead:
        return DeviceRead(*self._begin(plane, layers, table, num_tokens, is_read=True))

    def begin_write(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, data: Bytes
    ) -> DeviceWrite:
        begun = self._begin(plane, layers, table, num_tokens, is_read=False, data=data)
        return DeviceWrite(*begun)

    def begin_staged(
        self, plane: int, layers: range, table: BlockTable, num_tokens: int, *, is_read: bool
    ) -> DeviceCopy:
        """A copy out of the pool or into it that goes no further than the staging, whose items are
        whatever they are: to measure what the device does."""
        return DeviceCopy(*self._begin(plane, layers, table, num_tokens, is_read=is_read))

    def _begin(
        self,
        plane: int,
        layers: range,
        table: BlockTable,
        num_tokens: int,
        *,
        is_read: bool,
        data: Bytes | None = None,
    ) -> tuple[Tensor, StoredEvent, Callable[[], None]]:
        """Queue a copy, of `data` if there is any: its staged items, what tells when it is done,
        and what gives the staging back."""
        free = self._thread.free
        staging = free.pop() if free else Staging(pinned=self._on_gpu)

        def give_back() -> None:
            free.append(staging)

        try:
            items = staging.items(len(layers) * num_tokens * self._token_bytes)
            if data is not None:
                np.copyto(items.numpy(), data)
            blocks = staging.table(table[: -(-num_tokens // self._block_size)])
            done = self._thread.stream.queue(
                lambda: self._launch(plane, layers, blocks, num_tokens, items, is_read=is_read)
            )
        except BaseException:
            give_back()
            raise
        return items, done, give_back

    def _launch(
        self,
        plane: int,
        layers: range,
        blocks: Tensor,
        num_tokens: int,
        items: Tensor,
        *,
        is_read: bool,
    ) -> None:
        if not num_tokens or not layers:
            return
        copy_blocks[(-(-num_tokens // self._block_size), len(layers))](
            *(self._from_layer[plane][layers.start], items.view(self._word), blocks),
            *(num_tokens, self._layer_words),
            TOKEN_WORDS=self._token_bytes // self._word.itemsize,
            BLOCK_SIZE=self._block_size,
            READ=is_read,
            ITEMS=PROGRAM_WORDS,
        )
