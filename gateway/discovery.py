"""Finding the workers behind names, while they come and go.

A name may stand for several workers, as a service's name does among containers: each of its
addresses is a worker's. Names are looked up again and again. An address that a name gains gets a
link. One that it lost keeps its link for as long as a worker is at its other end: the stream knows
better than a name server whether a worker lives, and one that is on its way out still has requests
to finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.name_lookup import NameLookup, is_number
from tandem.core.address import Address
from tandem.core.worker import WorkerRole

log = structlog.get_logger(__name__)

LOOK_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerName:
    """Where workers of a role are looked for; `address` holds a name, or is one worker's own."""

    role: WorkerRole
    address: Address


class WorkerLinks(Protocol):
    """The links to workers, by address: a `Dispatcher`."""

    def add_worker(self, role: WorkerRole, address: str) -> None: ...

    def remove_worker(self, address: str) -> None: ...

    def is_connected(self, address: str) -> bool: ...


class Lookup(Protocol):
    """Looks one name up: a `NameLookup`."""

    async def look_up(self) -> Collection[str]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done about the links."""

    to_add: Mapping[str, WorkerRole]
    to_remove: Collection[str]


def decide(
    found: Mapping[WorkerName, Collection[str]],
    linked: Mapping[str, WorkerRole],
    connected: Collection[str],
) -> Changes:
    """Pure. `found` are the addresses behind each name, `linked` those that have a link to a worker
    of a role, `connected` those at whose end one is. The first name has an address that two share.
    One that has moved to a name of the other role has a new link once nobody is at the old one's
    end: removed before it is added."""
    wanted: dict[str, WorkerRole] = {}
    for name, addresses in found.items():
        for address in addresses:
            wanted.setdefault(address, name.role)
    to_remove = [
        address
        for address, role in linked.items()
        if wanted.get(address) is not role and address not in connected
    ]
    return Changes(
        to_add={
            address: role
            for address, role in wanted.items()
            if address not in linked or address in to_remove
        },
        to_remove=to_remove,
    )


class Discovery:
    """Looks names up for as long as `run` runs, and has links added and removed."""

    def __init__(
        self,
        names: Sequence[WorkerName],
        links: WorkerLinks,
        new_lookup: Callable[[Address], Lookup] = NameLookup,
    ) -> None:
        self._links = links
        self._new_lookup = new_lookup
        self._found: dict[WorkerName, Collection[str]] = dict.fromkeys(names, ())
        self._linked: dict[str, WorkerRole] = {}

    def num_addresses(self, role: WorkerRole) -> int:
        """At how many workers of a role are looked for; a name that is not found is one."""
        unfound = (name for name, addresses in self._found.items() if not addresses)
        return [*self._linked.values(), *(name.role for name in unfound)].count(role)

    async def run(self) -> None:
        """Each name by itself: one that is slow to be looked up holds no other up."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._found:
                tasks.create_task(self._watch(name), name=f"discovery {name.address}")

    async def _watch(self, name: WorkerName) -> None:
        with closing(self._new_lookup(name.address)) as lookup:
            problem = await self._look_up(name, lookup, "")
            # A number never stands for anything else.
            while not is_number(name.address):
                await asyncio.sleep(LOOK_UP_S)
                problem = await self._look_up(name, lookup, problem)

    async def _look_up(self, name: WorkerName, lookup: Lookup, last_problem: str) -> str:
        """Once. What the problem was, if there was one: the same is told only once."""
        problem = ""
        try:
            self._found[name] = await lookup.look_up()
            if not self._found[name]:
                problem = "there is no such name, or no address of it"
        except OSError as error:
            # Nothing is known of the name; what was known stays.
            problem = str(error)
        if problem not in ("", last_problem):
            log.warning("cannot look up", name=str(name.address), why=problem)
        self._apply()
        return problem

    def _apply(self) -> None:
        connected = [each for each in self._linked if self._links.is_connected(each)]
        changes = decide(self._found, self._linked, connected)
        for address in changes.to_remove:
            del self._linked[address]
            self._links.remove_worker(address)
        for address, role in changes.to_add.items():
            self._linked[address] = role
            self._links.add_worker(role, address)
