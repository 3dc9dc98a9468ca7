"""A gateway that stands by for another.

It leaves the workers alone for as long as one of them that it reaches is controlled by another
gateway. When none is any more, since the other has said goodbye or its leases have run out, it
takes them all over: first the one whose name comes first, so that of several gateways that stand by
just one gets that, and with it the others. One that nobody has and that cannot be taken all the
same, since it drains, hangs or does not fit, comes behind the others: all gateways find that alike.
What the other gateway had under way is lost with it; its clients begin anew here.

Who has the first of the workers is in charge of all. A gateway that comes back after it was taken
for dead finds that one in other hands. It is to end then, and whatever starts it again lets it
stand by.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import grpc
import structlog

from gateway.discovery import WorkerLinks
from tandem.core.worker import WorkerRole
from tandem.v1 import worker_pb2, worker_pb2_grpc
from tandem.wire.channels import open_channel
from tandem.wire.tls import ChannelTls, Identity, towards_worker

log = structlog.get_logger(__name__)

LOOK_S = 0.5
DESCRIBE_TIMEOUT_S = 1.0
# How often nobody must be seen to control a worker: one that was just started is taken by the
# gateway in charge as soon as that has found it.
NUM_LOOKS = 3
# How long a worker may take to be taken.
TAKE_S = 3.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Sighting:
    """A worker that answers, and the gateway that controls it; empty: none does."""

    address: str
    worker_id: str
    controller_id: str


class Standby:
    """Stands between a `Discovery` and the `links` that it wants: holds them back while `run`
    stands by. To the workers, this gateway is `controller_id`, and shows its `identity`, if it has
    one."""

    def __init__(
        self, links: WorkerLinks, controller_id: str, identity: Identity | None = None
    ) -> None:
        self._links = links
        self._controller_id = controller_id
        self._identity = identity
        self._roles: dict[str, WorkerRole] = {}
        self._linked: set[str] = set()
        # How often each could not be taken, though nobody had it.
        self._num_failures: Counter[str] = Counter()
        self._in_charge = False

    @property
    def in_charge(self) -> bool:
        """Whether it has taken the workers over."""
        return self._in_charge

    # WorkerLinks

    def add_worker(self, role: WorkerRole, address: str) -> None:
        self._roles[address] = role
        if self._in_charge:
            self._link(address)

    def remove_worker(self, address: str) -> None:
        del self._roles[address]
        self._unlink(address)

    def is_connected(self, address: str) -> bool:
        return address in self._linked and self._links.is_connected(address)

    # Standing by

    async def run(self) -> str:
        """Stand by, take the workers over, and return when another gateway has done so: its id."""
        while not await self._take(await self._first_of_free()):
            pass
        self._in_charge = True
        for address in self._roles.keys() - self._linked:
            self._link(address)
        log.info("in charge of the workers", num_workers=len(self._roles))
        return await self._successor()

    async def _first_of_free(self) -> str:
        """Wait until the workers are seen that somebody should take: the address of the first."""
        controller_id = ""
        num_looks = 0
        while num_looks < NUM_LOOKS:
            await asyncio.sleep(LOOK_S)
            seen = await self._look()
            holders = {each.controller_id for each in seen} - {""}
            num_looks = num_looks + 1 if seen and not holders else 0
            if holders and controller_id not in holders:
                controller_id = min(holders)
                log.info("standing by", controller=controller_id)
        return self._first(seen).address

    async def _take(self, address: str) -> bool:
        """Whether the worker is ours now, and not another's who came first."""
        if address not in self._roles:
            return False
        self._link(address)
        try:
            async with asyncio.timeout(TAKE_S):
                while not self.is_connected(address):  # noqa: ASYNC110 - a link tells nobody
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            if not self.is_connected(address):
                self._unlink(address)
                self._num_failures[address] += 1
                return False
        return True

    async def _successor(self) -> str:
        """Wait until the first worker is another gateway's: whose."""
        while True:
            await asyncio.sleep(LOOK_S)
            if all(map(self.is_connected, self._linked)):
                self._num_failures.clear()
                continue
            seen = await self._look()
            if seen and self._first(seen).controller_id not in ("", self._controller_id):
                return self._first(seen).controller_id

    async def _look(self) -> list[Sighting]:
        """Those of the workers that answer. Who has a gateway can be taken."""
        answers = await asyncio.gather(*(self._describe(*each) for each in self._roles.items()))
        seen = [each for each in answers if each]
        for each in seen:
            if each.controller_id:
                del self._num_failures[each.address]
        return seen

    def _first(self, seen: list[Sighting]) -> Sighting:
        """By name, of those that could not be taken the least often."""
        return min(seen, key=lambda each: (self._num_failures[each.address], each.worker_id))

    async def _describe(self, address: str, role: WorkerRole) -> Sighting | None:
        return await describe(address, towards_worker(self._identity, role))

    def _link(self, address: str) -> None:
        self._linked.add(address)
        self._links.add_worker(self._roles[address], address)

    def _unlink(self, address: str) -> None:
        if address in self._linked:
            self._linked.discard(address)
            self._links.remove_worker(address)


async def describe(address: str, tls: ChannelTls | None = None) -> Sighting | None:
    """Ask a worker who controls it; None if it does not answer."""
    async with open_channel(address, tls) as channel:
        try:
            response = await worker_pb2_grpc.WorkerServiceStub(channel).Describe(
                worker_pb2.DescribeRequest(), timeout=DESCRIBE_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return None
    return Sighting(address, response.worker.worker_id, response.controller_id)
