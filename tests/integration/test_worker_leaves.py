"""Links to workers that are about to end, and to such as others have controlled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from structlog.testing import capture_logs
from test_worker_link import FakeWorker, Listener, linked, message

from gateway.worker_link import WorkerLink
from tandem.core.errors import Fenced
from tandem.core.worker import WorkerRole


class Goodbyes:
    """The script of a worker that ends its stream when it is told goodbye."""

    def __init__(self) -> None:
        self.num_said = 0

    async def __call__(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.header.goodbye:
                self.num_said += 1
                return
            yield message()


async def test_a_worker_that_is_let_go_is_told_goodbye_and_its_successor_joins() -> None:
    goodbyes, listener = Goodbyes(), Listener()
    worker = FakeWorker(script=goodbyes)
    async with linked(worker, listener) as link:
        link.let_go()
        assert await listener.next() == "left"
        assert goodbyes.num_said == 1
        assert await listener.next() == "joined"


async def test_a_worker_that_dies_as_it_is_let_go_has_left_as_well() -> None:
    async def dies(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for _ in requests:
            return
        yield message()

    listener = Listener()
    worker = FakeWorker(script=dies)
    async with worker:
        link = WorkerLink(WorkerRole.DECODE, worker.address, "test", 1, listener)
        listener.joined = lambda info, address: link.let_go()  # type: ignore[method-assign]
        link.start()
        try:
            assert await listener.next() == "left"
        finally:
            await link.stop()


async def test_a_worker_that_is_about_to_end_does_not_join() -> None:
    worker, listener = FakeWorker(), Listener()
    worker.draining = True
    async with worker:
        link = WorkerLink(WorkerRole.DECODE, worker.address, "test", 1, listener)
        with capture_logs() as logs:
            link.start()
            try:
                async with asyncio.timeout(60):
                    while "d is about to end" not in [each.get("why") for each in logs]:
                        await asyncio.sleep(0.01)
                assert not worker.opened.is_set()
                worker.draining = False
                assert await listener.next() == "joined"
            finally:
                await link.stop()


async def test_a_term_is_above_all_that_the_worker_has_seen() -> None:
    worker, listener = FakeWorker(), Listener()
    worker.newest_term = 10**15
    async with linked(worker, listener):
        assert worker.hello.term == 10**15 + 1


async def test_a_worker_that_another_gateway_holds_is_lost_at_once() -> None:
    async def fenced(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield message()
        raise Fenced("another holds this worker")

    listener = Listener()
    async with linked(FakeWorker(script=fenced), listener):
        assert await listener.next() == "lost"
