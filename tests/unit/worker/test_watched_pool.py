"""Copies of KV that fail, or never end, beside the engine's steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from fake_state import NoEngine

from tandem.core.errors import EngineFailed, Mismatch, TandemError
from tandem.core.kv import Plane
from tandem.transfer.state_guard import StateGuard
from tandem.worker.watched_pool import MAX_FAILED_COPIES, WatchedPool


class FailingCopy:
    """Its end and its close raise what they are told to."""

    is_stored = False

    def __init__(self, pool: FailingPool) -> None:
        self._pool = pool

    def end(self, *out: memoryview) -> None:
        self._pool.fail()

    def close(self) -> None:
        self._pool.fail_to_close()


class FailingPool:
    """Its copies raise what `fail` raises when they end, and what `fail_to_begin` and
    `fail_to_close` raise then."""

    def __init__(self) -> None:
        self.fail: Callable[[], object] = lambda: None
        self.fail_to_begin: Callable[[], object] = lambda: None
        self.fail_to_close: Callable[[], object] = lambda: None

    def begin_read(self, *args: object) -> FailingCopy:
        self.fail_to_begin()
        return FailingCopy(self)

    def begin_write(self, *args: object) -> FailingCopy:
        self.fail_to_begin()
        return FailingCopy(self)


class CopyingEngine(NoEngine):
    def __init__(self) -> None:
        super().__init__()
        self._pool = FailingPool()
        self.lost = False

    @property
    def pool(self) -> FailingPool:
        return self._pool

    def is_lost(self) -> bool:
        return self.lost


class Worker:
    def __init__(self) -> None:
        self.engine = CopyingEngine()
        self.guard = StateGuard(asyncio.get_running_loop())
        self.pool = WatchedPool(self.engine, self.guard)

    def write(self) -> None:
        self.pool.write(Plane.KEY, range(1), [0], 4, memoryview(b""))

    def read(self) -> None:
        self.pool.read_into(Plane.KEY, range(1), [0], 4, memoryview(b""))

    def fail(self, error: Exception | None) -> None:
        def fail() -> None:
            if error:
                raise error

        self.engine.pool.fail = fail

    async def end(self) -> str | None:
        """Why it ends, if it does."""
        await asyncio.sleep(0)
        crash = self.guard.crash
        return crash.exception().message if crash.done() else None


@pytest.fixture
async def worker() -> Worker:
    return Worker()


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), MemoryError()])
async def test_a_copy_that_fails_is_the_engines_failure(worker: Worker, error: Exception) -> None:
    worker.fail(error)
    for copy in (worker.read, worker.write):
        with pytest.raises(EngineFailed, match=type(error).__name__):
            copy()
    assert await worker.end() is None
    assert worker.pool.copy_under_way() is None


async def test_a_copy_that_does_not_begin_is_the_engines_failure(worker: Worker) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    worker.engine.pool.fail_to_begin = fail
    for copy in (worker.read, worker.write):
        with pytest.raises(EngineFailed, match="RuntimeError"):
            copy()
    assert worker.pool.copy_under_way() is None


async def test_a_copy_that_neither_ends_nor_closes_has_failed_once(worker: Worker) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    worker.engine.pool.fail = worker.engine.pool.fail_to_close = fail
    for _ in range(MAX_FAILED_COPIES - 1):
        with pytest.raises(EngineFailed):
            worker.write()
    assert await worker.end() is None
    assert worker.pool.copy_under_way() is None


async def test_a_copy_that_was_begun_is_under_way_until_it_is_closed(worker: Worker) -> None:
    read = worker.pool.begin_read(Plane.KEY, range(1), [0], 4)
    write = worker.pool.begin_write(Plane.KEY, range(1), [0], 4, memoryview(b""))
    assert "out of" in (worker.pool.copy_under_way() or "")
    # As who begins two, of which the second one fails.
    read.close()
    assert "into" in (worker.pool.copy_under_way() or "")
    write.end()
    assert worker.pool.copy_under_way() is None
    write.close()


async def test_nothing_but_failures_end_the_worker(worker: Worker) -> None:
    for _ in range(3):
        worker.fail(RuntimeError("no memory"))
        for _ in range(MAX_FAILED_COPIES - 1):
            with pytest.raises(EngineFailed):
                worker.write()
        worker.fail(None)
        worker.write()
    assert await worker.end() is None
    worker.fail(RuntimeError("no memory"))
    for _ in range(MAX_FAILED_COPIES):
        with pytest.raises(EngineFailed):
            worker.write()
    assert "copies of KV into the pool failed" in (await worker.end() or "")


async def test_copies_out_that_succeed_excuse_none_into_the_pool(worker: Worker) -> None:
    """A decode worker parks what it has, and stores nothing that comes."""
    for _ in range(MAX_FAILED_COPIES):
        assert await worker.end() is None
        worker.fail(RuntimeError("no memory"))
        with pytest.raises(EngineFailed):
            worker.write()
        worker.fail(None)
        worker.read()
    assert "into the pool failed one after the other" in (await worker.end() or "")


async def test_a_lost_device_ends_the_worker_at_once(worker: Worker) -> None:
    worker.engine.lost = True
    worker.fail(RuntimeError("an illegal memory access"))
    with pytest.raises(EngineFailed):
        worker.write()
    assert "does not heal" in (await worker.end() or "")


async def test_what_is_refused_is_no_failure(worker: Worker) -> None:
    worker.engine.lost = True
    worker.fail(Mismatch("no such block"))
    for _ in range(2 * MAX_FAILED_COPIES):
        with pytest.raises(TandemError, match="no such block"):
            worker.write()
    assert await worker.end() is None


async def test_the_oldest_copy_is_under_way_until_it_ends(worker: Worker) -> None:
    """Whatever comes and goes meanwhile, it is one and the same to who watches."""
    reached, let = threading.Event(), threading.Event()

    def hang() -> None:
        reached.set()
        assert let.wait(10)

    worker.engine.pool.fail = hang
    hanging = asyncio.create_task(asyncio.to_thread(worker.write))
    await asyncio.to_thread(reached.wait, 10)
    worker.fail(None)
    seen = worker.pool.copy_under_way()
    assert seen is not None
    for _ in range(3):
        worker.read()
        assert worker.pool.copy_under_way() is seen
    let.set()
    await hanging
    assert worker.pool.copy_under_way() is None
