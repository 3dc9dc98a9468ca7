"""Work on threads, and how much of it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.offload import Offload
from tandem.core.errors import ResourceExhausted


@pytest.fixture
def offload():
    offload = Offload("test", num_threads=1, max_pending=10)
    yield offload
    offload.close()


async def test_work_is_done_elsewhere(offload):
    assert await offload.run(1, threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await offload.run(1, divmod, 1, 0)


async def test_no_more_is_taken_than_can_be_done_soon(offload):
    release = threading.Event()
    first = asyncio.create_task(offload.run(6, release.wait, 10))
    await asyncio.sleep(0)
    second = asyncio.create_task(offload.run(4, int))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await offload.run(1, int)
    assert caught.value.retry_after_s
    release.set()
    assert await first and await second == 0
    # However large, if it is alone.
    assert await offload.run(100, int) == 0


async def test_what_was_given_up_counts_until_it_is_done(offload):
    release = threading.Event()
    running = asyncio.create_task(offload.run(6, release.wait, 10))
    waiting = asyncio.create_task(offload.run(4, int))
    await asyncio.sleep(0)
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    with pytest.raises(ResourceExhausted):
        await offload.run(5, int)
    assert await asyncio.gather(offload.run(4, int), asyncio.to_thread(release.set)) == [0, None]
