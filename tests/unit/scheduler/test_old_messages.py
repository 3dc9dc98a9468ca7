"""What workers say is old when it is read: then nothing new is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import pytest
from sim_worker import MODEL, worker_info

from gateway.dispatcher import Dispatcher
from gateway.lag import INTERVAL_S, MAX_LAG_S, STANDING_S, Lag
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from tandem.core.errors import Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import worker_pb2

NAMES = ("p0", "p1", "p2", "d0", "d1", "d2")
SECOND_NS = 10**9
LATE_NS = int(4 * MAX_LAG_S * SECOND_NS)


class Gateway:
    """A dispatcher whose workers' messages are made here. All clocks are one, which stands still
    but where something is asked: its timer is never late, what is old alone counts."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self.lag = Lag(clock=lambda: self._now_s)
        self.infos: dict[str, WorkerInfo] = {}
        roles = {n: WorkerRole.PREFILL if n[0] == "p" else WorkerRole.DECODE for n in NAMES}
        self.dispatcher = Dispatcher(
            Scheduler(queue_policy("fcfs"), Limits(), local_prefill="auto"),
            [(role, f"{name}:1") for name, role in roles.items()],
            MODEL.fingerprint,
            Timeline(),
            lag=self.lag,
        )
        for name, role in roles.items():
            self.infos[name] = worker_info(name, role, 1, 100, 16)
            self.dispatcher.joined(self.infos[name], f"{name}:1")
            self.say(name, late_ns=0)

    def say(self, name: str, late_ns: int) -> None:
        """What a worker said a second after it was told something comes so late."""
        said_ns = 2 * SECOND_NS
        header = worker_pb2.WorkerHeader(
            echoed_ns=SECOND_NS, received_ns=SECOND_NS, sent_ns=said_ns, num_free_blocks=100
        )
        self.dispatcher.heard(self.infos[name], header, said_ns + late_ns)

    async def is_taken(self) -> bool:
        """Whether something new is, if what was measured stays so for a while."""
        await asyncio.sleep(2 * INTERVAL_S)
        self._now_s += STANDING_S
        try:
            self.dispatcher.check_room("default", 1, inf)
        except Unavailable as refusal:
            assert "too much to do" in refusal.message
            return False
        finally:
            self._now_s -= STANDING_S
        return True


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    system = Gateway()
    measuring = asyncio.create_task(system.lag.run())
    yield system
    measuring.cancel()


async def test_nothing_new_is_taken_while_most_decode_workers_are_heard_late() -> None:
    async with gateway() as system:
        assert await system.is_taken()
        system.say("d0", LATE_NS)
        assert await system.is_taken(), "one has a bad way here"
        system.say("d1", LATE_NS)
        assert not await system.is_taken(), "though prefill workers are heard in time"
        system.say("d1", late_ns=0)
        assert await system.is_taken()


@pytest.mark.parametrize("what", ["suspected", "lost"])
async def test_what_a_worker_said_counts_as_long_as_it_is_trusted(what: str) -> None:
    async with gateway() as system:
        for name in ("d0", "d1"):
            system.say(name, LATE_NS)
        assert not await system.is_taken()
        if what == "lost":
            system.dispatcher.lost(system.infos["d0"], Unavailable("gone"))
        else:
            system.dispatcher.suspected(system.infos["d0"])
        assert await system.is_taken()
