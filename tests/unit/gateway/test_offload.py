"""Work on threads, and how much of it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.offload import Offload
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant
from tandem.core.errors import ResourceExhausted


@pytest.fixture
def offload():
    tenants = {**ONE_TENANT, "other": Tenant()}
    offload = Offload("test", num_threads=1, max_pending=10, tenants=tenants)
    yield offload
    offload.close()


async def busy(offload: Offload, size: int) -> tuple[asyncio.Task[bool], threading.Event]:
    """Work that the thread is at, and what it waits for."""
    has_begun, release = threading.Event(), threading.Event()

    def work() -> bool:
        has_begun.set()
        return release.wait(10)

    running = asyncio.create_task(offload.run(size, work))
    assert await asyncio.to_thread(has_begun.wait, 10)
    return running, release


async def test_work_is_done_elsewhere(offload):
    assert await offload.run(1, threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await offload.run(1, divmod, 1, 0)


async def test_no_more_is_taken_than_can_be_done_soon(offload):
    first, release = await busy(offload, 6)
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
    running, release = await busy(offload, 6)
    waiting = asyncio.create_task(offload.run(4, int))
    await asyncio.sleep(0)
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    with pytest.raises(ResourceExhausted):
        await offload.run(5, int)
    assert await asyncio.gather(offload.run(4, int), asyncio.to_thread(release.set)) == [0, None]


async def test_a_flood_of_one_tenant_neither_shuts_out_nor_delays_another(offload):
    running, release = await busy(offload, 4)
    order: list[str] = []
    flood = [asyncio.create_task(offload.run(2, order.append, DEFAULT_TENANT)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await offload.run(2, int)
    other = asyncio.create_task(offload.run(5, order.append, "other", tenant="other"))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(running, *flood, other)
    assert order == ["other", *[DEFAULT_TENANT] * 3]


async def test_what_has_no_size_takes_its_turn(offload):
    running, release = await busy(offload, 1)
    order: list[str] = []
    flood = [asyncio.create_task(offload.run(0, order.append, DEFAULT_TENANT)) for _ in range(9)]
    other = asyncio.create_task(offload.run(1, order.append, "other", tenant="other"))
    more = asyncio.create_task(offload.run(1, order.append, "other", tenant="other"))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(running, *flood, other, more)
    assert order.index("other") <= 1
    assert len(order) - order[::-1].index("other") <= 4


async def test_what_waits_is_dropped_at_the_end(offload):
    running, release = await busy(offload, 1)
    waiting = asyncio.create_task(offload.run(1, int))
    await asyncio.sleep(0)
    offload.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    assert await running
