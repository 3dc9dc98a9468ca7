"""The memory of a pool, had from the system before it is needed."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from tandem.core.kv import Plane
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.native.library import Kernels

HUGE_PAGE = 2**21
# Of a busy core a tenth: soon enough, and no step is kept waiting.
LOW_PRIORITY = 10


class PagesAhead:
    """Writes to a pool's pages, changing nothing, before a step does.

    The system clears a page when it is written to first, a huge one at a time, and each plane of
    each layer has its own: whichever step came to the first block behind them would wait for all,
    with 60 of them a tenth of a second. So a thread of low priority goes a huge page ahead of
    the blocks that are used, which are the first of the pool, as long as these suffice.
    """

    def __init__(self, kernels: Kernels, pool: TorchKVPool) -> None:
        self._touch = kernels.functions.tandem_touch
        self._layers = [
            pool.layer(plane, layer) for plane in Plane for layer in range(pool.layout.num_layers)
        ]
        self._block_bytes = self._layers[0][0].nbytes
        self._num_ahead = -(-HUGE_PAGE // self._block_bytes)
        self._num_touched = 0
        self._thread = ThreadPoolExecutor(1, "pages-ahead", initializer=_take_low_priority)
        self.used(0)

    def used(self, block: int) -> None:
        """A step writes to this block, and to none behind it. To be called on one thread."""
        wanted = min(block + self._num_ahead, len(self._layers[0]))
        while self._num_touched < wanted:
            first, self._num_touched = self._num_touched, self._num_touched + self._num_ahead
            self._thread.submit(self._touch_blocks, first, self._num_touched)

    def _touch_blocks(self, first: int, stop: int) -> None:
        for layer in self._layers:
            part = layer[first:stop]
            self._touch(part.data_ptr(), part.nbytes)


def _take_low_priority() -> None:
    """Of this thread alone, which only Linux can."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
