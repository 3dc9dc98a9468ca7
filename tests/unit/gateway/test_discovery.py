"""Names are looked up again and again, and links follow what they stand for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from threading import Thread

import pytest
from structlog.testing import capture_logs

from gateway import discovery
from gateway.discovery import Changes, Discovery, WorkerName, decide
from tandem.core.address import Address
from tandem.core.worker import WorkerRole

PREFILL = WorkerName(WorkerRole.PREFILL, Address("prefill", 1))
DECODE = WorkerName(WorkerRole.DECODE, Address("decode", 2))


class FakeNames:
    """A name server. Each look-up waits to be let through, so that a test sees every one."""

    def __init__(self) -> None:
        self.answers: dict[Address, Collection[str] | OSError] = {}
        self.num_closed = 0
        self._turn = asyncio.Condition()
        self._turns: dict[Address, int] = {}

    async def resolve(self, address: Address) -> Collection[str]:
        async with self._turn:
            self._turns[address] = self._turns.get(address, 0) + 1
            self._turn.notify_all()
        answer = self.answers.get(address, ())
        if isinstance(answer, OSError):
            raise answer
        return answer

    def lookup(self, address: Address) -> FakeLookup:
        return FakeLookup(self, address)

    async def set(self, name: WorkerName, answer: Collection[str] | OSError) -> None:
        """Answer so from now on; returns when an answer has been acted upon."""
        self.answers[name.address] = answer
        seen = self._turns.get(name.address, 0)
        async with asyncio.timeout(10), self._turn:
            await self._turn.wait_for(lambda: self._turns.get(name.address, 0) >= seen + 2)


class FakeLookup:
    def __init__(self, names: FakeNames, address: Address) -> None:
        self._names = names
        self._address = address

    async def look_up(self) -> Collection[str]:
        return await self._names.resolve(self._address)

    def close(self) -> None:
        self._names.num_closed += 1


class FakeLinks:
    def __init__(self) -> None:
        self.links: dict[str, WorkerRole] = {}
        self.connected: set[str] = set()

    def add_worker(self, role: WorkerRole, address: str) -> None:
        assert address not in self.links
        self.links[address] = role

    def remove_worker(self, address: str) -> None:
        del self.links[address]

    def is_connected(self, address: str) -> bool:
        return address in self.connected


@asynccontextmanager
async def discovering(names: FakeNames, links: FakeLinks) -> AsyncIterator[None]:
    running = asyncio.create_task(Discovery([PREFILL, DECODE], links, names.lookup).run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def quick_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "LOOK_UP_S", 0.001)


def test_what_is_found_and_has_no_link_is_added() -> None:
    found = {PREFILL: ["a:1"], DECODE: ["b:2", "c:2"]}
    assert decide(found, {"b:2": WorkerRole.DECODE}, set()) == Changes(
        {"a:1": WorkerRole.PREFILL, "c:2": WorkerRole.DECODE}, []
    )


def test_a_link_outlives_its_name_while_a_worker_is_at_its_end() -> None:
    linked = dict.fromkeys(["a:1", "b:1"], WorkerRole.DECODE)
    assert decide({DECODE: []}, linked, {"a:1"}) == Changes({}, ["b:1"])


def test_an_address_behind_two_names_is_one_worker_of_the_first() -> None:
    changes = decide({PREFILL: ["a:1"], DECODE: ["a:1"]}, {}, ())
    assert changes == Changes({"a:1": WorkerRole.PREFILL}, [])


async def test_an_address_that_moves_to_the_other_role_has_a_new_link() -> None:
    """Of two names on one port: it may be behind both for a while, and then behind the other."""
    names, links = FakeNames(), FakeLinks()
    async with discovering(names, links):
        await names.set(PREFILL, ["10.0.0.1:1"])
        await names.set(DECODE, ["10.0.0.1:1"])
        assert links.links == {"10.0.0.1:1": WorkerRole.PREFILL}
        links.connected = {"10.0.0.1:1"}
        await names.set(PREFILL, [])
        assert links.links == {"10.0.0.1:1": WorkerRole.PREFILL}
        links.connected = set()
        await names.set(PREFILL, [])
        assert links.links == {"10.0.0.1:1": WorkerRole.DECODE}


async def test_workers_come_are_replaced_and_go() -> None:
    names, links = FakeNames(), FakeLinks()
    async with discovering(names, links):
        await names.set(DECODE, ["10.0.0.1:2"])
        await names.set(PREFILL, ["10.0.0.9:1"])
        assert links.links == {"10.0.0.1:2": WorkerRole.DECODE, "10.0.0.9:1": WorkerRole.PREFILL}
        links.connected = set(links.links)
        await names.set(DECODE, ["10.0.0.1:2", "10.0.0.2:2"])
        assert "10.0.0.2:2" in links.links
        await names.set(DECODE, ["10.0.0.3:2"])
        assert set(links.links) == {"10.0.0.9:1", "10.0.0.1:2", "10.0.0.3:2"}
        links.connected.remove("10.0.0.1:2")
        await names.set(DECODE, [])
        assert set(links.links) == {"10.0.0.9:1"}


async def test_nothing_goes_while_nobody_can_tell_and_it_is_said_once() -> None:
    names, links = FakeNames(), FakeLinks()
    async with discovering(names, links):
        await names.set(DECODE, ["10.0.0.1:2"])
        with capture_logs() as logs:
            await names.set(DECODE, socket.gaierror(socket.EAI_AGAIN, "try again"))
            await names.set(DECODE, socket.gaierror(socket.EAI_AGAIN, "try again"))
        assert set(links.links) == {"10.0.0.1:2"}
        assert [each["name"] for each in logs] == ["decode:2"]
        await names.set(DECODE, ["10.0.0.2:2"])
        assert set(links.links) == {"10.0.0.2:2"}


async def test_a_name_that_nobody_has_is_told_of_once_and_again_when_it_is_gone() -> None:
    names, links = FakeNames(), FakeLinks()
    names.answers[PREFILL.address] = ["10.0.0.9:1"]
    with capture_logs() as logs:
        async with discovering(names, links):
            await names.set(DECODE, [])
            assert [each["name"] for each in logs] == ["decode:2"]
            await names.set(DECODE, ["10.0.0.1:2"])
            await names.set(DECODE, [])
    assert [each["why"] for each in logs] == 2 * ["there is no such name, or no address of it"]


async def test_addresses_are_counted_and_a_name_that_is_not_found_is_one() -> None:
    names, links = FakeNames(), FakeLinks()
    found = Discovery([PREFILL, DECODE], links, names.lookup)
    running = asyncio.create_task(found.run())
    await names.set(DECODE, OSError("not known"))
    assert [found.num_addresses(role) for role in WorkerRole] == [1, 1]
    await names.set(DECODE, ["b:2", "c:2"])
    assert found.num_addresses(WorkerRole.DECODE) == 2
    links.connected.add("b:2")
    await names.set(DECODE, ["d:2"])
    # The name has lost it, and it is still there.
    assert found.num_addresses(WorkerRole.DECODE) == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_end_ends_the_look_ups() -> None:
    names = FakeNames()
    async with discovering(names, FakeLinks()):
        await names.set(DECODE, ["10.0.0.1:2"])
    assert names.num_closed == 2


async def test_numbers_are_never_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a number was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(Thread, "start", fail)
    links = FakeLinks()
    names = [
        WorkerName(WorkerRole.PREFILL, Address("10.0.0.1", 1)),
        WorkerName(WorkerRole.DECODE, Address("::1", 2)),
    ]
    # Once is enough, and this comes to its end.
    await asyncio.wait_for(Discovery(names, links).run(), 10)
    assert links.links == {"10.0.0.1:1": WorkerRole.PREFILL, "[::1]:2": WorkerRole.DECODE}


async def test_no_thread_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["10.0.0.1"]

    def getaddrinfo(host: str, port: int, **kwargs: object) -> list[object]:
        return [(0, 0, 0, "", (each, port)) for each in answers]

    num_refused = 3
    start = Thread.start

    def refuse(thread: Thread) -> None:
        nonlocal num_refused
        if num_refused:
            num_refused -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(Thread, "start", refuse)
    links = FakeLinks()
    with capture_logs() as logs:
        running = asyncio.create_task(Discovery([DECODE], links).run())
        async with asyncio.timeout(10):
            while not links.links:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert links.links == {"10.0.0.1:2": WorkerRole.DECODE}
    (problem,) = logs
    assert "can't start new thread" in problem["why"]
