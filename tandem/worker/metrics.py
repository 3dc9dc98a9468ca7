"""A worker's own metrics, for who scrapes each; the gateway's page has those of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from tandem.core.address import Address
from tandem.core.errors import ConfigError
from tandem.process.metrics import MetricsPage, counter, gauge, span_families
from tandem.worker.worker import Worker

LABELS = ("worker", "role", "device")


class WorkerCollector(Collector):
    """The families of one worker, made at a scrape, on the thread that serves it."""

    def __init__(self, worker: Worker[Any, Any, Any]) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        worker, info = self._worker, self._worker.info
        labels = (info.worker_id, info.role.name.lower(), info.device)
        for name, text, value in (
            ("kv_blocks", "Blocks of the KV pool.", info.num_blocks),
            (
                "kv_free_blocks",
                "Blocks that are free for new sequences.",
                worker.num_free_blocks(),
            ),
            (
                "kv_unused_slots",
                "Slots of the others that are for no token.",
                worker.num_unused_slots(),
            ),
            (
                "has_controller",
                "Whether a gateway holds its lease.",
                worker.lease.holder is not None,
            ),
        ):
            yield gauge(f"tandem_engine_{name}", text, LABELS, [(labels, value)])
        yield counter(
            "tandem_engine_expired_leases",
            "Leases of gateways that were not heard of any more.",
            LABELS,
            [(labels, worker.num_expired_leases)],
        )
        yield from span_families("tandem_engine", LABELS, [(labels, worker.totals)])


def serve_metrics(worker: Worker[Any, Any, Any], address: Address) -> None:
    """Answer `GET /metrics` on a thread of its own, to the end of the process. Raises
    `ConfigError`."""
    page = MetricsPage(WorkerCollector(worker))
    try:
        start_http_server(address.port, address.host, page.registry)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address}: {error.strerror}", param="metrics_port"
        ) from None
