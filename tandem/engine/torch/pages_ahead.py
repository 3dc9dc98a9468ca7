"""The memory of a pool, had from the system before it is needed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from tandem.native.library import Kernels

HUGE_PAGE = 2**21
# Of all planes and layers.
IDLE_AHEAD_BYTES = 2**29
# Of a busy core a tenth: soon enough, and no step is kept waiting.
LOW_PRIORITY = 10


class PagesAhead:
    """Writes to a pool's pages, changing nothing, before anyone needs them.

    The system clears a page when it is written to first, a huge one at a time, and each plane of
    each layer has its own: whoever came to the first block behind them would wait for all, with 60
    of them a tenth of a second. So a thread of low priority goes a huge page ahead of the blocks
    that are used, which are the first of the pool, as long as these suffice. Who goes on by more
    than that at a time waits as before. What is ahead is held: at first two huge pages of each.

    On a virtual machine whose host has to find the memory a core stands still meanwhile, for tens
    of milliseconds, whoever wrote. So the engine goes half a gibibyte ahead while it has no step.
    (Not a thread: of the lowest priority it would keep a lock of the process's memory when steps
    begin.)
    """

    def __init__(self, kernels: Kernels, layers: Sequence[torch.Tensor]) -> None:
        """`layers`: blocks of each plane and layer, `[num_blocks, ...]`."""
        self._touch = kernels.functions.tandem_touch
        self._layers = layers
        self._num_blocks = len(layers[0])
        self._num_in_page = -(-HUGE_PAGE // layers[0][0].nbytes)
        self._num_idle_ahead = IDLE_AHEAD_BYTES // sum(each[0].nbytes for each in layers)
        self._num_touched = 0
        # The next part to be touched in idle time: a layer's, from this block on.
        self._idle_first = 0
        self._idle_layer = 0
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(1, "pages-ahead", initializer=_take_low_priority)
        self.used(0)

    def used(self, block: int) -> None:
        """A block is written to. Callable from any thread; without effect after `close`."""
        wanted = min(block + self._num_in_page, self._num_blocks)
        if wanted <= self._num_touched:
            return
        with self._lock:
            while self._num_touched < wanted:
                first, self._num_touched = self._num_touched, self._num_touched + self._num_in_page
                self._executor.submit(self._touch_blocks, first, self._num_touched)

    def go_further(self) -> bool:
        """Touch a huge page of one layer behind those that the thread touches; False if that is far
        enough. Called by one thread at a time."""
        if self._idle_first < self._num_touched:
            self._idle_first, self._idle_layer = self._num_touched, 0
        if self._idle_first >= min(self._num_touched + self._num_idle_ahead, self._num_blocks):
            return False
        stop = self._idle_first + self._num_in_page
        self._touch_part(self._layers[self._idle_layer][self._idle_first : stop])
        self._idle_layer += 1
        if self._idle_layer == len(self._layers):
            self._idle_first, self._idle_layer = stop, 0
        return True

    def close(self) -> None:
        """Nothing is touched any more on return. Not beside `go_further`."""
        with self._lock:
            self._num_touched = self._num_blocks
        self._executor.shutdown(cancel_futures=True)

    def _touch_blocks(self, first: int, stop: int) -> None:
        for layer in self._layers:
            self._touch_part(layer[first:stop])

    def _touch_part(self, blocks: torch.Tensor) -> None:
        self._touch(blocks.data_ptr(), blocks.nbytes)


def _take_low_priority() -> None:
    """Of this thread alone, which only Linux can. Where that is refused it keeps its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            lower = max(LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, lower)
