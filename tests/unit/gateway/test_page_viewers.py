"""Ticks are made while somebody looks, once for all."""

from __future__ import annotations

import asyncio

import pytest

from gateway.page.viewers import MAX_KEPT, MAX_VIEWERS, Tick, Viewers
from tandem.core.errors import ResourceExhausted


class Source:
    """Feeds whose ticks come when the test says so."""

    def __init__(self) -> None:
        self.num_opened = 0
        self.num_ticks = 0
        self.stopping = False
        self.failing = False
        self._may_tick = asyncio.Semaphore(0)

    def open(self) -> Tick:
        self.num_opened += 1
        return self._tick

    def let(self, num_ticks: int = 1) -> None:
        for _ in range(num_ticks):
            self._may_tick.release()

    async def _tick(self) -> bytes:
        await self._may_tick.acquire()
        if self.failing:
            self.failing = False
            raise RuntimeError("as if")
        self.num_ticks += 1
        return b"%d" % self.num_ticks


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def viewers(source: Source) -> Viewers:
    return Viewers(source.open, lambda: source.stopping, tick_s=0)


async def test_all_viewers_get_the_same_ticks(source: Source, viewers: Viewers) -> None:
    with viewers.join() as one, viewers.join() as other:
        source.let()
        assert await one.next() == await other.next() == [b"1"]
        source.let()
        assert await one.next() == [b"2"]
    assert (source.num_opened, source.num_ticks) == (1, 2)


async def test_nothing_is_made_while_nobody_looks(source: Source, viewers: Viewers) -> None:
    source.let(100)
    await asyncio.sleep(0)
    assert source.num_opened == 0
    with viewers.join() as viewer:
        await viewer.next()
    num_ticks = source.num_ticks
    for _ in range(10):
        await asyncio.sleep(0)
    assert source.num_ticks == num_ticks
    with viewers.join() as viewer:
        # A feed of its own, and none of the ticks that were told before.
        assert await viewer.next() == [b"%d" % (num_ticks + 1)]
    assert source.num_opened == 2


async def test_who_comes_later_sees_what_is_kept(source: Source, viewers: Viewers) -> None:
    with viewers.join() as first:
        source.let()
        await first.next()
        source.let()
        await first.next()
        with viewers.join() as second:
            assert await second.next() == [b"1", b"2"]


async def test_who_is_slow_skips_ticks(source: Source, viewers: Viewers) -> None:
    with viewers.join() as slow, viewers.join() as quick:
        for _ in range(MAX_KEPT + 5):
            source.let()
            await quick.next()
        ticks = await slow.next()
    assert ticks == [b"%d" % number for number in range(6, MAX_KEPT + 6)]


async def test_viewers_are_bounded(viewers: Viewers) -> None:
    joined = [viewers.join() for _ in range(MAX_VIEWERS)]
    for each in joined:
        each.__enter__()
    with pytest.raises(ResourceExhausted), viewers.join():
        pass
    joined.pop().__exit__(None, None, None)
    with viewers.join():
        pass
    for each in joined:
        each.__exit__(None, None, None)


async def test_a_tick_that_fails_is_left_out(source: Source, viewers: Viewers) -> None:
    source.failing = True
    with viewers.join() as viewer:
        source.let(2)
        assert await viewer.next() == [b"1"]


async def test_all_end_with_the_gateway(source: Source, viewers: Viewers) -> None:
    with viewers.join() as viewer:
        source.let()
        await viewer.next()
        waiting = asyncio.create_task(viewer.next())
        source.stopping = True
        source.let()
        ticks = await waiting
        while ticks:
            ticks = await viewer.next()
