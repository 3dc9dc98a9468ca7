"""Work that would hold the event loop up, on a few threads; no more of it than can be done soon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tandem.core.errors import ResourceExhausted

P = ParamSpec("P")
T = TypeVar("T")


class Offload:
    """A pool of threads for work whose size is known beforehand, in any unit.

    Work waits while the threads are busy, but never more than `max_pending` of it, the part that
    runs included: beyond that it is refused with `ResourceExhausted`.
    """

    def __init__(self, name: str, num_threads: int, max_pending: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._max_pending = max_pending
        self._pending = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the threads; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(
        self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of a call on a thread. What has begun when the caller gives up is counted
        until its thread is through with it."""
        # The first is always taken, however large: its limits are checked elsewhere.
        if self._pending and self._pending + size > self._max_pending:
            raise ResourceExhausted("too many requests are being read", retry_after_s=1.0)
        self._add(size)
        done = self._threads.submit(partial(function, *args, **kwargs))
        # On its thread, or where it was cancelled.
        done.add_done_callback(lambda _: self._add(-size))
        return await asyncio.wrap_future(done)

    def _add(self, size: int) -> None:
        with self._lock:
            self._pending += size
