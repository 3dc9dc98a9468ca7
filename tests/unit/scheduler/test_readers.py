"""Who is told that a generation has something for its reader."""

from __future__ import annotations

import asyncio

import pytest
from sim_worker import MODEL, worker_info

from gateway.dispatcher import Dispatcher
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from gateway.tokens import TokenRequest
from tandem.core.errors import Unavailable
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerRole


async def test_a_reader_that_fails_costs_no_other_its_end() -> None:
    scheduler = Scheduler(queue_policy("fcfs"), Limits())
    for name, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
        scheduler.worker_joined(worker_info(name, role, 1, 100, 16), f"{name}:1")
    dispatcher = Dispatcher(scheduler, [], MODEL.fingerprint, Timeline())
    params = SamplingParams(max_tokens=5, seed=0)
    failing, other = (
        dispatcher.submit(TokenRequest(name, (5,) * 8, params)) for name in ("failing", "other")
    )
    told = asyncio.Event()
    failing.subscribe(lambda: 1 / 0)
    other.subscribe(told.set)
    dispatcher.end_all()
    await asyncio.wait_for(told.wait(), 10)
    with pytest.raises(Unavailable):
        other.take()
