"""Of `/metrics` what says whether requests are served, and by whom: whoever is gone is in no other
family any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.dispatcher import Dispatcher
from gateway.worker_state import WorkerState, state_of
from tandem.core.worker import WorkerRole
from tandem.process.metrics import counter, gauge

ROLES = {role: role.name.lower() for role in WorkerRole}


class FleetCollector(Collector):
    """These families have all their samples from the first scrape on, also of a role that nobody
    has."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        num_addresses: Callable[[WorkerRole], int],
        stands_by: Callable[[], bool] = lambda: False,
    ) -> None:
        """`num_addresses` says at how many addresses workers of a role are looked for, and
        `stands_by` whether another gateway is in charge of them."""
        self._dispatcher = dispatcher
        self._num_addresses = num_addresses
        self._stands_by = stands_by

    def collect(self) -> Iterator[Metric]:
        dispatcher = self._dispatcher
        for name, text, is_so in (
            ("ready", "1 if requests are served, as `/ready` says.", dispatcher.ready),
            ("draining", "1 from SIGTERM on.", dispatcher.draining),
            ("standby", "1 while another gateway is in charge.", self._stands_by()),
        ):
            yield gauge(f"tandem_{name}", text, (), [((), float(is_so))])
        states = Counter((each.info.role, state_of(each)) for each in dispatcher.workers)
        yield gauge(
            "tandem_workers",
            "Workers that are there.",
            ("role", "state"),
            (
                ((name, state.value), states[role, state])
                for role, name in ROLES.items()
                for state in WorkerState
            ),
        )
        yield gauge(
            "tandem_worker_addresses",
            "Addresses at which workers are looked for; a name that is not found is one.",
            ("role",),
            (((name,), self._num_addresses(role)) for role, name in ROLES.items()),
        )
        yield counter(
            "tandem_workers_lost",
            "Times that a worker was lost with what it held.",
            ("role",),
            (((name,), dispatcher.num_lost[role]) for role, name in ROLES.items()),
        )
