"""A link whose listener fails, which is a bug of ours, goes on: else nobody would look at its
address again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest
from fake_workers import fake_worker

from gateway import worker_link
from gateway.worker_link import WorkerLink
from tandem.core.errors import TandemError, Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole

INFO = fake_worker()


class Failing:
    """Notes what it hears, and fails at one of these."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.events: asyncio.Queue[str] = asyncio.Queue()

    def admits(self, info: WorkerInfo) -> None: ...

    def joined(self, info: WorkerInfo, address: str) -> None:
        self._hear("joined")

    def lost(self, info: WorkerInfo, error: TandemError) -> None:
        self._hear("lost")

    def left(self, info: WorkerInfo) -> None:
        self._hear("left")

    def suspected(self, info: WorkerInfo) -> None:
        self._hear("suspected")

    def _hear(self, event: str) -> None:
        self.events.put_nowait(event)
        if event == self._at:
            raise KeyError(event)


class Scripted(WorkerLink):
    """Its streams break when a test says so, until when a worker is there."""

    def __init__(self, listener: Failing) -> None:
        super().__init__(WorkerRole.DECODE, "host:1", "test", 1, listener)
        self.breaks = asyncio.Event()

    async def _connect_and_serve(self) -> None:
        if self._standing.info is None:
            self._standing.join(INFO)
        await self.breaks.wait()
        self.breaks.clear()
        raise Unavailable("it broke")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker_link, "RETRY_S", 0.001)
    # Nothing happens but what a test does.
    monkeypatch.setattr(worker_link, "TURN_S", 60.0)
    return


@asynccontextmanager
async def broken(listener: Failing, *, let_go: bool = False):
    """A link whose worker has joined, and whose stream breaks."""
    link = Scripted(listener)
    link.start()
    async with asyncio.timeout(10):
        assert await listener.events.get() == "joined"
        if let_go:
            link.let_go()
        link.breaks.set()
        try:
            yield
        finally:
            link.cancel()


async def test_one_that_fails_when_a_worker_leaves_hears_of_the_next() -> None:
    listener = Failing("left")
    async with broken(listener, let_go=True):
        assert [await listener.events.get() for _ in range(2)] == ["left", "joined"]


async def test_one_that_fails_when_a_worker_is_suspected_loses_it_and_hears_of_the_next() -> None:
    listener = Failing("suspected")
    async with broken(listener):
        heard = [await listener.events.get() for _ in range(3)]
        assert heard == ["suspected", "lost", "joined"]


async def test_a_worker_that_came_just_before_its_link_was_cancelled_is_lost() -> None:
    """Else its view would stay for ever, and whoever joins again would be refused."""
    listener = Failing("nothing")
    link = Scripted(listener)
    link.start()
    assert await listener.events.get() == "joined"
    link.cancel()
    await link.stop()
    assert listener.events.get_nowait() == "lost"
    assert listener.events.empty()
