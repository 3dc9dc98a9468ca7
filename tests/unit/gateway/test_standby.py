"""Standing by, with links and workers that do what a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from gateway import standby
from gateway.standby import Sighting, Standby
from tandem.core.worker import WorkerRole
from tandem.wire.tls import ChannelTls, Identity, Role

OTHER = "another"
OWN = "own"


class Workers:
    """By address, who controls each, and the `WorkerLinks` of one gateway to them. Their names are
    in the order of their addresses' last letters. `nobody_wins`: another is always quicker; who is
    among the `misfits` is taken by nobody."""

    def __init__(self, *addresses: str) -> None:
        self.controllers = dict.fromkeys(addresses, OTHER)
        self.linked: list[str] = []
        self.tried: list[str] = []
        self.num_looks = 0
        self.looked = asyncio.Condition()
        self.nobody_wins = False
        self.misfits: set[str] = set()
        self.asked_with: dict[str, ChannelTls | None] = {}

    def add_worker(self, role: WorkerRole, address: str) -> None:
        self.linked.append(address)
        self.tried.append(address)
        if not self.controllers[address] and address not in self.misfits:
            self.controllers[address] = OTHER if self.nobody_wins else OWN

    def remove_worker(self, address: str) -> None:
        self.linked.remove(address)

    def is_connected(self, address: str) -> bool:
        return self.controllers[address] == OWN

    async def describe(self, address: str, tls: ChannelTls | None = None) -> Sighting | None:
        self.asked_with[address] = tls
        async with self.looked:
            self.num_looks += 1
            self.looked.notify_all()
        return Sighting(address, address[::-1], self.controllers[address])

    async def until_looked(self, num_times: int) -> None:
        until = self.num_looks + num_times * len(self.controllers)
        async with asyncio.timeout(10), self.looked:
            await self.looked.wait_for(lambda: self.num_looks >= until)

    def all_go_to(self, controller_id: str) -> None:
        self.controllers = dict.fromkeys(self.controllers, controller_id)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LOOK_S", "POLL_S"):
        monkeypatch.setattr(standby, name, 0.001)
    monkeypatch.setattr(standby, "TAKE_S", 0.02)
    return


@asynccontextmanager
async def standing_by(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Standby, asyncio.Task[str]]]:
    monkeypatch.setattr(standby, "describe", workers.describe)
    gate = Standby(workers, OWN)
    for address in workers.controllers:
        gate.add_worker(WorkerRole.DECODE, address)
    running = asyncio.create_task(gate.run())
    try:
        yield gate, running
    finally:
        running.cancel()


async def until_linked(workers: Workers, num_links: int) -> None:
    async with asyncio.timeout(10):
        while len(workers.linked) < num_links:
            await asyncio.sleep(0.001)


async def test_workers_are_left_alone_while_one_is_controlled(monkeypatch) -> None:
    workers = Workers("a", "b", "c")
    async with standing_by(workers, monkeypatch):
        workers.controllers["a"] = workers.controllers["b"] = ""
        await workers.until_looked(2 * standby.NUM_LOOKS)
        assert workers.linked == []
        workers.controllers["c"] = ""
        await until_linked(workers, 3)
        assert set(workers.controllers.values()) == {OWN}


async def test_the_worker_whose_name_comes_first_is_taken_first(monkeypatch) -> None:
    workers = Workers("1z", "2y", "3x")
    async with standing_by(workers, monkeypatch):
        workers.all_go_to("")
        await until_linked(workers, 3)
        assert workers.linked[0] == "3x"


async def test_who_is_too_late_goes_on_standing_by(monkeypatch) -> None:
    workers = Workers("a", "b")
    workers.nobody_wins = True
    async with standing_by(workers, monkeypatch) as (_, running):
        workers.all_go_to("")
        await until_linked(workers, 1)
        assert workers.controllers == {"a": OTHER, "b": ""}
        await workers.until_looked(2 * standby.NUM_LOOKS)
        assert workers.linked == []
        assert not running.done()
        workers.nobody_wins = False
        workers.all_go_to("")
        await until_linked(workers, 2)
        assert workers.linked[0] == "a", "it was not in vain because of the worker"


async def test_who_cannot_be_taken_keeps_nobody_from_the_others(monkeypatch) -> None:
    workers = Workers("a", "b", "c")
    workers.misfits = {"a", "b"}
    async with standing_by(workers, monkeypatch) as (gate, running):
        workers.all_go_to("")
        await until_linked(workers, 3)
        assert gate._in_charge
        assert workers.controllers == {"a": "", "b": "", "c": OWN}
        await workers.until_looked(3)
        workers.controllers["c"] = OTHER
        async with asyncio.timeout(10):
            assert await running == OTHER


async def test_who_could_not_be_taken_is_tried_again_behind_the_others(monkeypatch) -> None:
    workers = Workers("a", "b")
    workers.misfits = {"a", "b"}
    async with standing_by(workers, monkeypatch):
        workers.all_go_to("")
        async with asyncio.timeout(10):
            while len(workers.tried) < 4:
                await asyncio.sleep(0.001)
        assert workers.tried == ["a", "b", "a", "b"]
        workers.misfits = set()
        await until_linked(workers, 2)


async def test_who_could_not_be_taken_at_first_comes_first_once_it_was(monkeypatch) -> None:
    workers = Workers("a", "b")
    workers.misfits = {"a"}
    async with standing_by(workers, monkeypatch) as (gate, running):
        workers.all_go_to("")
        await until_linked(workers, 2)
        # Its link goes on trying.
        workers.controllers["a"] = OWN
        async with asyncio.timeout(10):
            while gate._num_failures:
                await asyncio.sleep(0.001)
        workers.controllers = {"a": "", "b": OTHER}
        await workers.until_looked(3)
        assert not running.done()
        workers.controllers["a"] = OTHER
        async with asyncio.timeout(10):
            assert await running == OTHER


async def test_who_joins_in_the_last_moment_is_kept(monkeypatch) -> None:
    workers = Workers("a")
    monkeypatch.setattr(standby, "TAKE_S", 0.0)
    looks = iter([False])
    monkeypatch.setattr(workers, "is_connected", lambda _: next(looks, True))
    async with standing_by(workers, monkeypatch) as (gate, _):
        assert await gate._take("a")
        assert workers.linked == ["a"]


async def test_once_in_charge_what_is_found_is_linked_at_once(monkeypatch) -> None:
    workers = Workers("a")
    async with standing_by(workers, monkeypatch) as (gate, _):
        workers.all_go_to("")
        await until_linked(workers, 1)
        while not gate._in_charge:
            await asyncio.sleep(0.001)
        workers.controllers["b"] = ""
        gate.add_worker(WorkerRole.PREFILL, "b")
        assert workers.linked == ["a", "b"]
        gate.remove_worker("a")
        assert workers.linked == ["b"]


async def test_it_ends_when_the_first_worker_is_another_gateways(monkeypatch) -> None:
    workers = Workers("a", "b")
    async with standing_by(workers, monkeypatch) as (_, running):
        workers.all_go_to("")
        await until_linked(workers, 2)
        workers.controllers["b"] = OTHER
        await workers.until_looked(3)
        assert not running.done(), "the first is still its own"
        workers.controllers["a"] = ""
        await workers.until_looked(3)
        assert not running.done(), "the first is nobody's, and will be its own again"
        workers.controllers["a"] = OTHER
        async with asyncio.timeout(10):
            assert await running == OTHER


async def test_workers_are_asked_as_what_their_certificates_say_they_are(monkeypatch) -> None:
    workers = Workers("p", "d")
    monkeypatch.setattr(standby, "describe", workers.describe)
    gate = Standby(workers, OWN, Identity(b"authority", b"certificate", b"key"))
    gate.add_worker(WorkerRole.PREFILL, "p")
    gate.add_worker(WorkerRole.DECODE, "d")
    running = asyncio.create_task(gate.run())
    await workers.until_looked(1)
    running.cancel()
    servers = {address: tls and tls.server for address, tls in workers.asked_with.items()}
    assert servers == {"p": Role.PREFILL, "d": Role.DECODE}
