"""What operators and the page are told of a worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import Mock

import pytest
from fake_workers import fake_worker
from lone_gateway import new_dispatcher, new_scheduler

from gateway.generation import Generation
from gateway.grpc_admin import AdminServicer
from gateway.local_prefill import LocalPrefillMode
from gateway.page.feed import Feed
from gateway.request_metrics import RequestMetrics
from gateway.scheduler import Scheduler
from gateway.timeline import Timeline
from gateway.tokens import TokenRequest
from gateway.worker_state import WorkerState
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerRole
from tandem.v1 import admin_pb2

INFO = fake_worker()


def suspect(scheduler: Scheduler) -> None:
    scheduler.worker_suspected("d")


def cordon(scheduler: Scheduler) -> None:
    scheduler.draining.cordon("d", 1.0, 0.0)


def hold(scheduler: Scheduler) -> None:
    params = SamplingParams(max_tokens=1, seed=0)
    generation = Generation(TokenRequest("r", (5,), params), 1)
    scheduler.workers[0].generations[generation.sequence_id] = generation


def stop(scheduler: Scheduler) -> None:
    scheduler.draining.stops("d", 1.0, 0.0)


@pytest.mark.parametrize(
    ("happened", "state"),
    [
        ((), "serving"),
        ((cordon,), "drained"),
        ((hold, cordon), "draining"),
        ((cordon, suspect), "suspect"),
        ((cordon, suspect, stop), "stopping"),
    ],
)
async def test_all_are_told_the_same(
    happened: tuple[Callable[[Scheduler], None], ...], state: str
) -> None:
    scheduler = new_scheduler()
    scheduler.worker_joined(INFO, "host:1")
    for each in happened:
        each(scheduler)
    (worker,) = scheduler.workers
    assert worker.is_open is (state == "serving")
    (told,) = await listed(scheduler)
    assert admin_pb2.WorkerState.Name(told.state) == f"WORKER_STATE_{state.upper()}"
    tick = json.loads(await Feed(scheduler, RequestMetrics(), Timeline()).tick())
    assert [each["state"] for each in tick["workers"]] == [state]


@pytest.mark.parametrize(("local_prefill", "needed"), [("off", ["p", "d"]), ("auto", ["d"])])
async def test_who_is_needed_is_told(local_prefill: LocalPrefillMode, needed: list[str]) -> None:
    """Decode workers that may compute prompts do without the last prefill worker."""
    scheduler = new_scheduler(local_prefill=local_prefill)
    for name, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
        scheduler.worker_joined(replace(INFO, worker_id=name, role=role), "host:1")
    assert await needed_workers(scheduler) == needed
    scheduler.worker_joined(replace(INFO, worker_id="e"), "host:2")
    assert "d" not in await needed_workers(scheduler)
    # What comes is let in, and waits until it is known what became of it.
    scheduler.worker_suspected("e")
    assert "d" not in await needed_workers(scheduler)
    scheduler.draining.cordon("e", 1.0, 0.0)
    assert await needed_workers(scheduler) == needed


async def needed_workers(scheduler: Scheduler) -> list[str]:
    tick = json.loads(await Feed(scheduler, RequestMetrics(), Timeline()).tick())
    needed = [each["id"] for each in tick["workers"] if each["needed"]]
    assert [each.worker_id for each in await listed(scheduler) if each.needed] == needed
    return needed


async def listed(scheduler: Scheduler) -> Sequence[admin_pb2.WorkerStatus]:
    """What operators are told by gRPC."""
    admin = AdminServicer(new_dispatcher(scheduler))
    return (await admin.ListWorkers(admin_pb2.ListWorkersRequest(), Mock())).workers


def test_each_state_has_a_number_on_the_wire() -> None:
    names = {f"WORKER_STATE_{state.name}" for state in WorkerState}
    assert {*admin_pb2.WorkerState.keys()} == {*names, "WORKER_STATE_UNSPECIFIED"}
