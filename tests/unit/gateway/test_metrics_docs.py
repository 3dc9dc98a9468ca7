"""docs/metrics.md has a row for each metric, and says of it what it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from page_families import WORKERS, families_of_a_fleet
from prometheus_client.core import Metric
from queries import labels_of

from gateway.metrics_page import ENGINE_LABELS
from tandem.core.span_totals import SpanTotals
from tandem.core.worker import WorkerRole
from tandem.worker.metrics import LABELS, WorkerCollector

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `((?:vllm:|tandem_)\w+)` \| (\w+) \|(.*)\|$", re.MULTILINE)
# Of units in names.
UNITS = {"seconds": "seconds", "bytes": "bytes", "tokens": "tokens"}
Described = dict[str, tuple[str, set[str]]]


def described(*, on_worker: bool) -> Described:
    """By the page: type and labels, those that all of a kind have left out."""
    found: Described = {}
    for name, kind, rest in ROW.findall(PAGE.read_text()):
        if name.startswith("tandem_engine_") is on_worker:
            assert name not in found
            labels = "" if on_worker else rest.split("|")[0]
            found[name] = kind, set(re.findall(r"`(\w+)`", labels))
    return found


def actual(families: Iterable[Metric], common: Collection[str]) -> Described:
    return {
        each.name + ("_total" if each.type == "counter" else ""): (
            each.type,
            set(labels_of(each)) - set(common),
        )
        for each in families
    }


async def test_each_metric_of_the_gateway_has_a_row() -> None:
    assert described(on_worker=False) == actual(await families_of_a_fleet(), ENGINE_LABELS)


def test_each_metric_of_a_worker_has_a_row() -> None:
    worker: Any = SimpleNamespace(
        info=WORKERS[WorkerRole.DECODE],
        num_free_blocks=lambda: 1,
        num_unused_slots=lambda: 1,
        lease=SimpleNamespace(holder=None),
        num_expired_leases=0,
        totals=SpanTotals(),
    )
    assert described(on_worker=True) == actual(WorkerCollector(worker).collect(), LABELS)


def test_units_are_those_of_the_names() -> None:
    for name, _, rest in ROW.findall(PAGE.read_text()):
        unit = rest.split("|")[0 if name.startswith("tandem_engine_") else 1].strip()
        assert unit, name
        last = name.removesuffix("_total").rpartition("_")[2]
        assert unit == UNITS.get(last, unit), name
