"""Who scrapes the page sees that a worker is gone, though nothing on it is about that any more."""

from __future__ import annotations

from collections.abc import Iterator

from http_client import counted_calls
from page_families import WORKERS, families, new_dispatcher, samples_of
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.dispatcher import Dispatcher
from tandem.core.errors import Unavailable
from tandem.core.worker import WorkerRole
from tandem.process.metrics import MetricsPage, gauge

PREFILL, DECODE = WORKERS[WorkerRole.PREFILL], WORKERS[WorkerRole.DECODE]


def read(dispatcher: Dispatcher, name: str) -> dict[tuple[str, ...], float]:
    return samples_of(families(dispatcher), name)


def workers(dispatcher: Dispatcher) -> dict[tuple[str, ...], float]:
    return {labels: num for labels, num in read(dispatcher, "tandem_workers").items() if num}


async def test_all_is_told_before_any_worker_has_come() -> None:
    dispatcher = new_dispatcher()
    found = read(dispatcher, "tandem_workers")
    assert {role for role, _ in found} == {"prefill", "decode"}
    assert {"serving", "suspect", "draining"} < {state for _, state in found}
    assert set(found.values()) == {0}
    assert read(dispatcher, "tandem_worker_addresses") == {("prefill",): 1, ("decode",): 1}
    assert read(dispatcher, "tandem_workers_lost_total") == {("prefill",): 0, ("decode",): 0}
    for name in ("ready", "draining", "standby"):
        assert read(dispatcher, f"tandem_{name}") == {(): 0}


async def test_a_worker_that_is_lost_is_counted_and_one_that_leaves_is_not() -> None:
    dispatcher = new_dispatcher()
    for each in (PREFILL, DECODE):
        dispatcher.joined(each, each.worker_id)
    assert read(dispatcher, "tandem_ready") == {(): 1}
    assert workers(dispatcher) == {("prefill", "serving"): 1, ("decode", "serving"): 1}
    dispatcher.suspected(DECODE)
    assert workers(dispatcher) == {("prefill", "serving"): 1, ("decode", "suspect"): 1}
    dispatcher.lost(DECODE, Unavailable("it was lost"))
    dispatcher.left(PREFILL)
    assert not workers(dispatcher)
    assert read(dispatcher, "tandem_workers_lost_total") == {("prefill",): 0, ("decode",): 1}
    assert read(dispatcher, "tandem_ready") == {(): 0}
    await dispatcher.stop()


async def test_a_gateway_that_stops_says_so() -> None:
    dispatcher = new_dispatcher()
    dispatcher.drain()
    assert read(dispatcher, "tandem_draining") == {(): 1}
    assert read(dispatcher, "tandem_ready") == {(): 0}


class Many(Collector):
    """As many samples as those of a hundred workers."""

    NUM = 4_000

    def collect(self) -> Iterator[Metric]:
        rows = (((str(number),), 1.0) for number in range(self.NUM))
        yield gauge("many", "Each of a worker.", ("worker",), rows)


async def test_a_large_page_is_not_written_where_all_else_is_done() -> None:
    page = MetricsPage(Many())
    with counted_calls() as num_calls:
        text = await page.text()
        assert num_calls() < 12 * Many.NUM
    assert text.count(b"\nmany{") == Many.NUM
