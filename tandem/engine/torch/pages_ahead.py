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
# Of a busy core a tenth: soon enough, and no step is kept waiting.
LOW_PRIORITY = 10


class PagesAhead:
    """Writes to a pool's pages, changing nothing, before anyone needs them.

    The system clears a page when it is written to first, a huge one at a time, and each plane of
    each layer has its own: whoever came to the first block behind them would wait for all, with 60
    of them a tenth of a second. So a thread of low priority goes a huge page ahead of the blocks
    that are used, which are the first of the pool, as long as these suffice. Who goes on by more
    than that at a time waits as before. What is ahead is held: at first two huge pages of each.
    """

    def __init__(self, kernels: Kernels, layers: Sequence[torch.Tensor]) -> None:
        """`layers`: blocks of each plane and layer, `[num_blocks, ...]`."""
        self._touch = kernels.functions.tandem_touch
        self._layers = layers
        self._num_ahead = -(-HUGE_PAGE // layers[0][0].nbytes)
        self._num_touched = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "pages-ahead", initializer=_take_low_priority)
        self.used(0)

    def used(self, block: int) -> None:
        """A block is written to. Callable from any thread."""
        wanted = min(block + self._num_ahead, len(self._layers[0]))
        if wanted <= self._num_touched:
            return
        with self._lock:
            while self._num_touched < wanted:
                first, self._num_touched = self._num_touched, self._num_touched + self._num_ahead
                self._thread.submit(self._touch_blocks, first, self._num_touched)

    def close(self) -> None:
        """Nothing is touched any more on return."""
        self._thread.shutdown(cancel_futures=True)

    def _touch_blocks(self, first: int, stop: int) -> None:
        for layer in self._layers:
            part = layer[first:stop]
            self._touch(part.data_ptr(), part.nbytes)


def _take_low_priority() -> None:
    """Of this thread alone, which only Linux can. Where that is refused it keeps its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            lower = max(LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, lower)
