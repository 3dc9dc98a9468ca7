"""What follows from a change of a worker's state, on whichever thread it is made."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
import structlog

from tandem.core.errors import TandemError
from tandem.transfer.state_guard import StateGuard


async def here(work: Callable[[], None]) -> None:
    work()


async def elsewhere(work: Callable[[], None]) -> None:
    await asyncio.to_thread(work)


On = Callable[[Callable[[], None]], Awaitable[None]]


@pytest.fixture
async def guard() -> StateGuard:
    return StateGuard(asyncio.get_running_loop())


@pytest.mark.parametrize("on", [here, elsewhere])
async def test_a_change_is_reported(guard: StateGuard, on: On) -> None:
    def change() -> None:
        with guard.change():
            assert not guard.news.is_set(), "it is not done yet"

    await on(change)
    await asyncio.wait_for(guard.news.wait(), 10)


@pytest.mark.parametrize("on", [here, elsewhere])
async def test_a_change_of_which_there_is_nothing_to_say_is_not(guard: StateGuard, on: On) -> None:
    def change() -> None:
        with guard.change(is_news=False):
            pass

    await on(change)
    await asyncio.sleep(0)
    assert not guard.news.is_set()


async def test_who_waits_for_work_looks_again_after_each_change(guard: StateGuard) -> None:
    is_waiting, has_looked = threading.Event(), threading.Event()

    def wait() -> None:
        with guard.lock:
            is_waiting.set()
            if guard.lock.wait(10):
                has_looked.set()

    waiting = asyncio.create_task(asyncio.to_thread(wait))
    await asyncio.to_thread(is_waiting.wait, 10)
    with guard.change(is_news=False):
        assert not has_looked.is_set()
    await waiting
    assert has_looked.is_set()


@pytest.mark.parametrize("on", [here, elsewhere])
async def test_an_error_ends_the_worker_and_says_where_it_was(guard: StateGuard, on: On) -> None:
    def change() -> None:
        with guard.change():
            raise AssertionError("block 7 is freed twice")

    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(AssertionError):
                await on(change)
        with pytest.raises(TandemError, match="the worker is broken: AssertionError"):
            await asyncio.wait_for(guard.crash, 10)
        await asyncio.sleep(0)
    ((told, error),) = ((each["event"], each["exc_info"]) for each in logs)
    assert (told, str(error)) == ("the worker is broken", "block 7 is freed twice")
    assert not guard.news.is_set()
