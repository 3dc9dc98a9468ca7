"""What is on the gateway's page of metrics, with a worker of each role and before any request."""

from __future__ import annotations

from collections.abc import Iterator

from fake_workers import fake_worker
from prometheus_client.core import Metric

from gateway.dispatcher import Dispatcher
from gateway.fleet_metrics import FleetCollector
from gateway.grpc_outcomes import grpc_outcomes
from gateway.http.counted import http_outcomes
from gateway.lag import Lag
from gateway.local_prefill import LocalPrefillMode
from gateway.metrics_page import GatewayCollector
from gateway.outcomes import OutcomesCollector
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from tandem.core.worker import WorkerRole

WORKERS = {role: fake_worker(role.name.lower(), role) for role in WorkerRole}


def new_dispatcher(local_prefill: LocalPrefillMode = "off") -> Dispatcher:
    """With a link to each of `WORKERS`, none of which is there."""
    addresses = [(role, worker.worker_id) for role, worker in WORKERS.items()]
    scheduler = Scheduler(queue_policy("fcfs"), Limits(), local_prefill=local_prefill)
    return Dispatcher(scheduler, addresses, "", Timeline())


def families(dispatcher: Dispatcher) -> Iterator[Metric]:
    scheduler, requests = dispatcher._scheduler, dispatcher.metrics
    yield from GatewayCollector(scheduler, requests, Lag(), "mock").collect()
    yield from FleetCollector(dispatcher, lambda role: 1).collect()
    yield from OutcomesCollector(http_outcomes(), grpc_outcomes()).collect()


async def families_of_a_fleet() -> list[Metric]:
    """Those of a gateway that serves."""
    dispatcher = new_dispatcher()
    for worker in WORKERS.values():
        dispatcher.joined(worker, worker.worker_id)
    return list(families(dispatcher))


def samples_of(metrics: Iterator[Metric], name: str) -> dict[tuple[str, ...], float]:
    """By their labels' values."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == name
    }
