"""Tracing is off unless it is asked for, and then it is what was asked for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from threading import Event

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from trace_receiver import collecting

from gateway.generation import Generation
from gateway.request import GenerationRequest, TextPrompt
from gateway.request_metrics import TokenTimes
from gateway.tokens import TokenRequest
from gateway.tracing.otlp import MAX_TRACERS, OtlpTrace, OtlpTracing, otlp_tracing
from gateway.tracing.setup import ENDPOINT_VARIABLES, open_tracing
from gateway.tracing.spans import TraceSpan
from gateway.tracing.trace import NO_TRACE, Tracing
from tandem.core.errors import Cancelled, ConfigError, InvalidRequest
from tandem.core.installation import install_tandem
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerRole

EXPORTER = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
ENDPOINT = "http://127.0.0.1:1"
SAMPLED = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


def tracing(exporter: InMemorySpanExporter, sample: float = 1.0) -> OtlpTracing:
    return OtlpTracing(SimpleSpanProcessor(exporter), ParentBasedTraceIdRatio(sample), "gateway-1")


def ask(traceparent: str = "", tracestate: str = "") -> GenerationRequest:
    return GenerationRequest(
        prompts=(TextPrompt("Hi"),), traceparent=traceparent, tracestate=tracestate
    )


def test_nothing_is_traced_unless_somebody_asks() -> None:
    off = open_tracing(None, None, "gateway-1")
    assert type(off) is Tracing
    assert off.begin(ask(SAMPLED)) is NO_TRACE
    assert NO_TRACE.trace_id == ""


@pytest.mark.parametrize("name", ENDPOINT_VARIABLES)
async def test_opentelemetrys_own_variables_ask_as_well(name, monkeypatch) -> None:
    monkeypatch.setenv(name, ENDPOINT)
    opened = open_tracing(None, None, "gateway-1")
    assert isinstance(opened, OtlpTracing)
    await opened.close()


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="collector:4317 is no collector's address"):
        open_tracing("collector:4317", None, "gateway-1")


def test_who_asks_for_it_without_the_package_is_told_which(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "gateway.tracing.otlp")
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    with pytest.raises(ConfigError, match="exporter is missing") as told:
        open_tracing(ENDPOINT, None, "gateway-1")
    assert install_tandem(extra="otel") in told.value.message


async def test_the_service_has_the_name_that_the_environment_gives_it(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat")
    opened = otlp_tracing(ENDPOINT, 1.0, "gateway-1")
    trace = opened.begin(ask())
    assert isinstance(trace, OtlpTrace)
    assert trace._root.resource.attributes["service.name"] == "chat"
    await opened.close()


async def test_traces_go_by_no_proxy_that_the_environment_names(monkeypatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, ENDPOINT)
    async with collecting() as collector:
        opened = otlp_tracing(collector.address, 1.0, "gateway-1")
        opened.begin(ask()).end()
        await opened.close()
        assert collector.traces()


@pytest.mark.parametrize(
    ("traceparent", "sample", "is_traced"),
    [
        (SAMPLED, 0.0, True),
        (UNSAMPLED, 1.0, False),
        ("", 1.0, True),
        ("", 0.0, False),
        ("nonsense", 1.0, True),
        ("nonsense", 0.0, False),
    ],
)
def test_a_trace_goes_on_as_its_parent_says(exporter, traceparent, sample, is_traced) -> None:
    trace = tracing(exporter, sample).begin(ask(traceparent, "vendor=1"))
    assert bool(trace.trace_id) is is_traced
    trace.end()
    spans = exporter.get_finished_spans()
    assert len(spans) == is_traced
    if traceparent == SAMPLED:
        assert trace.trace_id == "a" * 32
        assert spans[0].parent and f"{spans[0].parent.span_id:016x}" == "b" * 16
        assert spans[0].context.trace_state["vendor"] == "1"


def test_a_request_that_was_not_taken_tells_why_and_not_in_its_words(exporter) -> None:
    trace = tracing(exporter).begin(ask())
    trace.end(InvalidRequest("the canary sings"))
    trace.end()
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "INVALID_REQUEST"
    assert "canary" not in span.to_json()


def test_how_each_choice_ended_is_told_in_their_order(exporter) -> None:
    trace = tracing(exporter).begin(ask())
    params = SamplingParams(max_tokens=5, seed=0)
    for choice, end in ((1, InvalidRequest("no")), (0, Cancelled("left"))):
        request = TokenRequest("r", (5,) * 8, params, choice_index=choice)
        generation = Generation(request, 7 + choice, arrived_s=1.0)
        generation.end_attempt(2.0)
        trace.choice_ended(generation, TokenTimes(), end)
    trace.end()
    *_, root = exporter.get_finished_spans()
    assert root.attributes["gen_ai.response.finish_reasons"] == ("abort", "error")


def test_workers_that_never_come_again_are_forgotten(exporter) -> None:
    traces = tracing(exporter)
    for number in range(3 * MAX_TRACERS):
        span = TraceSpan("decode", 0.0, 1.0, f"d{number}", WorkerRole.DECODE)
        assert traces.tracer_of(span) is traces.tracer_of(span)
    assert len(traces._workers) == MAX_TRACERS


class StuckExporter(SpanExporter):
    """Of a collector that takes nothing."""

    def __init__(self) -> None:
        self.began, self.released, self.gave_up = Event(), Event(), Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.began.set()
        if not self.released.wait(10):
            self.gave_up.set()
        return SpanExportResult.SUCCESS


async def test_a_collector_that_takes_nothing_holds_nobody_up() -> None:
    exporter = StuckExporter()
    processor = BatchSpanProcessor(exporter, schedule_delay_millis=1)
    opened = OtlpTracing(processor, ParentBasedTraceIdRatio(1.0), "gateway-1")
    opened.begin(ask()).end()
    assert await asyncio.to_thread(exporter.began.wait, 10)
    await opened.close()
    assert not exporter.gave_up.is_set()
    exporter.released.set()
