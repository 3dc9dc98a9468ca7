"""One thread on which KV is copied, each copy in two parts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Its first part ends at its one `yield`, if there is anything to wait for.
CopyJob = Generator[None, None, T]


class TwoParts(Generic[T]):
    """A job, by its parts. Whatever it raises, its end does."""

    def __init__(self, job: CopyJob[T]) -> None:
        self._job = job
        self._has_begun = False
        self._error: BaseException | None = None

    @property
    def is_under_way(self) -> bool:
        """Of one that has begun: whether its end has something to wait for."""
        return self._error is None

    def begin(self) -> None:
        """Run the first part, unless that was done before."""
        if self._has_begun:
            return
        self._has_begun = True
        try:
            next(self._job)
        except BaseException as error:
            self._error = error

    def end(self) -> T:
        """Run what is left; what the job returns."""
        error, self._error = self._error, None
        try:
            if error:
                raise error
            next(self._job)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            # It knows this frame: what the job holds would stay until garbage is collected.
            del error
        raise AssertionError("a job has more than two parts")

    def drop(self) -> None:
        """It is not to be ended: close what it has begun, however that goes."""
        with suppress(Exception):
            self._job.close()


def run_in_turn(jobs: Iterable[CopyJob[None]]) -> None:
    """Run jobs in their order on this thread, each begun before the one in front of it ends."""
    under_way: deque[TwoParts[None]] = deque()
    try:
        for job in jobs:
            under_way.append(TwoParts(job))
            # If that one has failed, no other begins.
            if len(under_way) > 1 and not under_way[0].is_under_way:
                under_way.popleft().end()
            under_way[-1].begin()
            if len(under_way) > 1:
                under_way.popleft().end()
        while under_way:
            under_way.popleft().end()
    finally:
        for parts in under_way:
            parts.drop()


class CopyThread:
    """Runs jobs in the order in which they come. A job that waits is begun before the one in front
    of it ends: a device copies its bytes while the host copies and checks the other's."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        # All that are not at their turn yet, in the executor's order.
        self._waiting: deque[TwoParts[Any]] = deque()

    def run(self, job: CopyJob[T]) -> asyncio.Future[T]:
        """Let it run; what it returns. Must not be cancelled, but by `close`."""
        parts = TwoParts(job)
        self._waiting.append(parts)
        return asyncio.get_running_loop().run_in_executor(self._executor, self._turn, parts)

    def close(self, *, leave: bool = False) -> None:
        """End all that was asked for; or `leave` what is not at its turn, as the process is to end:
        what has not begun keeps its accesses."""
        self._executor.shutdown(cancel_futures=leave)
        while self._waiting:
            self._waiting.popleft().drop()

    def _turn(self, parts: TwoParts[T]) -> T:
        self._waiting.popleft()
        parts.begin()
        # What has ended already does not wait for the first part of the next.
        if self._waiting and parts.is_under_way:
            self._waiting[0].begin()
        return parts.end()
