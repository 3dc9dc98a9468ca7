"""Finding the workers behind names, while they come and go.

A name may stand for several workers, as a service's name does among containers: each of its
addresses is a worker's. Names are looked up again and again. An address that a name gains gets a
link. One that it lost keeps its link for as long as a worker is at its other end: the stream knows
better than a name server whether a worker lives, and one that is on its way out still has requests
to finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.name_lookup import look_up
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


Resolve = Callable[[Address], Awaitable[Collection[str]]]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done about the links."""

    to_add: Mapping[str, WorkerRole]
    to_remove: Collection[str]


def decide(
    found: Mapping[WorkerName, Collection[str]],
    linked: Collection[str],
    connected: Collection[str],
) -> Changes:
    """Pure. `found` are the addresses behind each name, `linked` those that have a link,
    `connected` those at whose end a worker is. The first name has an address that two share."""
    wanted: dict[str, WorkerRole] = {}
    for name, addresses in found.items():
        for address in addresses:
            wanted.setdefault(address, name.role)
    return Changes(
        to_add={address: role for address, role in wanted.items() if address not in linked},
        to_remove=[each for each in linked if each not in wanted and each not in connected],
    )


class Discovery:
    """Looks names up for as long as `run` runs, and has links added and removed."""

    def __init__(
        self, names: Sequence[WorkerName], links: WorkerLinks, resolve: Resolve | None = None
    ) -> None:
        self._links = links
        self._resolve = resolve or look_up
        self._found: dict[WorkerName, Collection[str]] = dict.fromkeys(names, ())
        self._linked: set[str] = set()

    async def run(self) -> None:
        """Each name by itself: one that is slow to be looked up holds no other up."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._found:
                tasks.create_task(self._watch(name), name=f"discovery {name.address}")

    async def _watch(self, name: WorkerName) -> None:
        problem = ""
        while True:
            try:
                self._found[name] = await self._resolve(name.address)
                problem = ""
            except OSError as error:
                # Nothing is known of the name; what was known stays.
                if problem != (problem := str(error)):
                    log.warning("cannot look up", name=str(name.address), why=problem)
            self._apply()
            await asyncio.sleep(LOOK_UP_S)

    def _apply(self) -> None:
        connected = [each for each in self._linked if self._links.is_connected(each)]
        changes = decide(self._found, self._linked, connected)
        for address in changes.to_remove:
            self._linked.discard(address)
            self._links.remove_worker(address)
        for address, role in changes.to_add.items():
            self._linked.add(address)
            self._links.add_worker(role, address)
