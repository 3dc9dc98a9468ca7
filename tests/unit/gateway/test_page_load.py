"""What the page takes for the workers' load."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_workers import fake_worker
from lone_gateway import new_scheduler

from gateway.page.load import load_of, sending_share
from gateway.scheduler import Scheduler
from gateway.worker_view import PoolUse
from tandem.core.pipeline import Lane, pipeline_figures
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerRole

Take = Callable[[Scheduler, str], object]
out_of_service = pytest.mark.parametrize(
    "take_out",
    [
        pytest.param(Scheduler.worker_suspected, id="suspect"),
        pytest.param(lambda found, name: found.draining.cordon(name, 1.0, 0.0), id="draining"),
        pytest.param(lambda found, name: found.draining.stops(name, 1.0, 0.0), id="stopping"),
    ],
)


def lane(worker_id: str, role: WorkerRole, *spans: Span) -> Lane:
    return Lane(worker_id, role, spans)


def transfer(end_ns: int) -> Span:
    return Span(SpanKind.TRANSFER, 0, end_ns, num_bytes=100, compute_end_ns=end_ns // 2)


def scheduler() -> Scheduler:
    """One worker of the one role, two of the other."""
    found = new_scheduler()
    for worker_id in ("p", "d", "e"):
        role = WorkerRole.PREFILL if worker_id == "p" else WorkerRole.DECODE
        found.worker_joined(fake_worker(worker_id, role), "host:1")
    return found


@out_of_service
def test_it_is_read_off_the_workers_that_serve(take_out: Take) -> None:
    found = scheduler()
    _, first, _ = found.workers
    first.take_use(PoolUse(num_free_blocks=16))
    take_out(found, "e")
    figures = pipeline_figures(
        [
            lane("p", WorkerRole.PREFILL, Span(SpanKind.STEP, 0, 100), transfer(80)),
            lane("d", WorkerRole.DECODE, Span(SpanKind.STEP, 50, 100)),
            lane("e", WorkerRole.DECODE, Span(SpanKind.STEP, 0, 100)),
        ]
    )
    load = load_of(found, figures, num_in_flight=3)
    assert (load.prefill.num_open, load.decode.num_open) == (1, 1)
    assert (load.prefill.busy_share, load.decode.busy_share) == (1.0, 0.5)
    assert (load.decode.used_share, load.decode.num_places) == (0.75, 8)
    assert (load.exposed_share, load.num_in_flight, load.missing) == (0.5, 3, "")
    assert abs(load.sending_share - 0.8) < 1e-9


@out_of_service
def test_a_role_of_which_nobody_serves_is_missing(take_out: Take) -> None:
    found = scheduler()
    take_out(found, "p")
    assert load_of(found, pipeline_figures([]), 0).missing == "prefill"


def test_without_steps_or_senders_nothing_is_sent() -> None:
    only_sent = pipeline_figures([lane("p", WorkerRole.PREFILL, transfer(80))])
    assert sending_share(only_sent, 1) == 0.0
    assert sending_share(only_sent, 0) == 0.0
    assert sending_share(pipeline_figures([]), 1) == 0.0
