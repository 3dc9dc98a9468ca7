"""How what clients asked was answered: what is wrong with a request is no refusal (`refusals.py`),
and is known to nobody but its client otherwise."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from tandem.process.metrics import counter
from tandem.process.rare_lines import RareLines

log = structlog.get_logger(__name__)

# Of whatever is asked that is not there: what clients name makes up no label.
OTHER = "other"


class Outcomes:
    """Counts answers by route and code. Of those that are their client's fault few lines in the log
    tell, of each route and code the first, and then one in a while; they have nothing of the
    requests in them, whose words may be anybody's, but the id of the one with which they were
    due."""

    def __init__(
        self, at_fault: Collection[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`at_fault` are the codes that are the client's fault, and are told nowhere else. `clock`
        tells monotonic seconds."""
        self.counts = Counter[tuple[str, str]]()
        self._at_fault = at_fault
        self._lines = RareLines(clock=clock)

    def add(self, route: str, code: str, client: str) -> None:
        """One was answered: both of `route` and `code` are of few. `client` is its address."""
        self.counts[route, code] += 1
        if code in self._at_fault and (num := self._lines.due((route, code))):
            log.warning("client errors", route=route, code=code, client=client, num=num)


class OutcomesCollector(Collector):
    """Those by HTTP and by gRPC."""

    def __init__(self, by_http: Outcomes, by_grpc: Outcomes) -> None:
        self._by_http = by_http
        self._by_grpc = by_grpc

    def collect(self) -> Iterator[Metric]:
        for name, text, labels, outcomes in (
            ("http_requests", "HTTP requests answered.", ("path", "code"), self._by_http),
            ("grpc_calls", "gRPC calls that have ended.", ("method", "code"), self._by_grpc),
        ):
            yield counter(f"tandem_{name}", text, labels, outcomes.counts.items())
