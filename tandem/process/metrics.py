"""Metrics as Prometheus reads them: families made at a scrape from what a process counts anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from operator import attrgetter

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tandem.core.histogram import Histogram
from tandem.core.span_totals import SpanTotals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Rows = Iterable[tuple[Sequence[str], float]]
"""A value for each combination of labels."""


def gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """What goes up and down."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def counter(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    """What only rises; its samples' name has `_total` behind it."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def histogram(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    """Counts by size."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, counts in rows:
        buckets = [
            ("+Inf" if bound == inf else str(bound), float(count))
            for bound, count in counts.cumulative()
        ]
        family.add_metric(values, buckets, counts.total)
    return family


# Of what a worker has done: the counter's name behind the prefix, its text, and its value.
_SPAN_COUNTERS: tuple[tuple[str, str, Callable[[SpanTotals], float]], ...] = (
    ("steps", "Steps of the engine.", attrgetter("num_steps")),
    (
        "waited_steps",
        "Steps before which the engine had nothing to do.",
        attrgetter("num_waited_steps"),
    ),
    ("busy_seconds", "Time in steps: its rate is the engine's utilisation.",
     lambda totals: totals.step_ns / 1e9),
    ("prompt_tokens", "Prompt tokens that steps computed.", attrgetter("num_prompt_tokens")),
    ("generated_tokens", "Tokens that steps computed one by one.",
     attrgetter("num_generated_tokens")),
    ("kv_sent_bytes", "KV of finished transfers.", attrgetter("num_sent_bytes")),
    ("kv_received_bytes", "KV stored.", attrgetter("num_received_bytes")),
    (
        "kv_exposed_seconds",
        "Of the transfers' time what no computing hid: by the sum of kv_transfer_seconds, the "
        "share that is not hidden.",
        lambda totals: totals.exposed_ns / 1e9,
    ),
)  # fmt: skip


def span_families(
    prefix: str, labels: Sequence[str], rows: Sequence[tuple[Sequence[str], SpanTotals]]
) -> Iterator[Metric]:
    """What workers have done, a row each."""
    for name, text, value in _SPAN_COUNTERS:
        values = ((each, value(totals)) for each, totals in rows)
        yield counter(f"{prefix}_{name}", text, labels, values)
    yield histogram(
        f"{prefix}_kv_transfer_seconds",
        "Transfers, from the first frame to the acknowledgement of all.",
        labels,
        ((each, totals.transfer_s) for each, totals in rows),
    )


class _Families(Collector):
    """As they were."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsPage:
    """Collectors' families, and the process's own: memory, processor time, open files."""

    def __init__(self, *collectors: Collector) -> None:
        # Nothing is collected beforehand to see which names there are: a scrape has them all.
        self.registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            self.registry.register(collector)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    async def text(self) -> bytes:
        """In Prometheus's text format, `CONTENT_TYPE`: read now, and written on a thread, which of
        many workers takes several times as long."""
        return await asyncio.to_thread(generate_latest, _Families(self.registry.collect()))
