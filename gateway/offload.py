"""Work that would hold the event loop up, on a few threads; no more of it than can be done soon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from gateway.fair_queue import FairQueue, Work
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenants
from tandem.core.errors import ResourceExhausted

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Job:
    """A call, and what becomes of it."""

    function: Callable[[], Any]
    done: Future[Any]

    def run(self) -> None:
        """Make the call, unless it was given up."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.function())
        except BaseException as error:
            self.done.set_exception(error)
            # Which has this frame: with it the error would keep itself, and what was asked.
            del self


class Offload:
    """A pool of threads for work whose size is known beforehand, in any unit.

    Work waits while the threads are busy, and tenants take turns; but never more than `max_pending`
    of it, the part that runs included: beyond that it is refused with `ResourceExhausted`, unless
    its tenant has less than its share of that.
    """

    def __init__(
        self, name: str, num_threads: int, max_pending: int, tenants: Tenants = ONE_TENANT
    ) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._queue = FairQueue[Job](tenants, max_pending)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the threads; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while job := self._take():
            job.done.cancel()

    async def run(
        self,
        size: int,
        function: Callable[[*Ts], T],
        *args: *Ts,
        tenant: str = DEFAULT_TENANT,
    ) -> T:
        """The result of a call on a thread. What has begun when the caller gives up is counted
        until its thread is through with it."""
        work = Work(tenant, max(1, size))
        done = Future[T]()
        with self._lock:
            if not self._queue.can_push(work):
                raise ResourceExhausted("too many requests are being read", retry_after_s=1.0)
            # A thread for one job more; for which, is decided when there is one.
            self._threads.submit(self._run_next)
            self._queue.push(work, Job(partial(function, *args), done))
        # On its thread, or where it was cancelled.
        done.add_done_callback(lambda _: self._end(work))
        return await asyncio.wrap_future(done)

    def _run_next(self) -> None:
        # There is none where one was given up that waited.
        if job := self._take():
            job.run()

    def _take(self) -> Job | None:
        with self._lock:
            return self._queue.take()

    def _end(self, work: Work) -> None:
        with self._lock:
            self._queue.end(work)
