"""Traces over OTLP, by OpenTelemetry's SDK. Imported only when they are asked for.

The gateway exports for all: each worker has a provider of its own, whose resource names it, and all
of them share one queue and one connection to the collector. What the collector does not take in
time is dropped; no request waits for it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.generation import Generation
from gateway.request import ChatPrompt, GenerationRequest
from gateway.request_metrics import TokenTimes
from gateway.tokens import Ended
from gateway.tracing.spans import TraceSpan, choice_span, finish_reason, stage_spans
from gateway.tracing.trace import NO_TRACE, RequestTrace, Tracing
from tandem.core.errors import Cancelled, TandemError
from tandem.core.proxies import may_take_proxy
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerRole
from tandem.wire.channels import NO_PROXY

log = structlog.get_logger(__name__)

GATEWAY_NAME = "tandem-gateway"
WORKER_NAMES = {WorkerRole.PREFILL: "tandem-prefill", WorkerRole.DECODE: "tandem-decode"}
# A worker's id may be its container's, and never come again.
MAX_TRACERS = 256
# By the standard it need not be passed on if it is longer.
MAX_TRACESTATE_CHARS = 512
CLOSE_S = 2.0

PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracing(Tracing):
    """Traces the requests that its sampler takes."""

    def __init__(
        self,
        processor: SpanProcessor,
        sampler: Sampler | None,
        instance_id: str,
        service_name: str = GATEWAY_NAME,
    ) -> None:
        """Ended spans go to `processor`. Without a `sampler` it is the environment's
        (`OTEL_TRACES_SAMPLER`), or all are taken. This gateway is `instance_id`."""
        self._processor = processor
        self._sampler = sampler
        self._gateway = self._new_tracer(service_name, instance_id)
        self._workers: dict[tuple[WorkerRole, str], Tracer] = {}

    def begin(self, request: GenerationRequest) -> RequestTrace:
        headers = {"traceparent": request.traceparent}
        if len(request.tracestate) <= MAX_TRACESTATE_CHARS:
            headers["tracestate"] = request.tracestate
        operation = _operation(request)
        parent = PROPAGATOR.extract(headers, Context())
        root = self._gateway.start_span(operation, parent, SpanKind.SERVER)
        return OtlpTrace(self, root, operation) if root.is_recording() else NO_TRACE

    def tracer_of(self, span: TraceSpan) -> Tracer:
        """That of whose span it is."""
        if span.role is None:
            return self._gateway
        worker = (span.role, span.worker_id)
        if worker not in self._workers:
            if len(self._workers) == MAX_TRACERS:
                del self._workers[next(iter(self._workers))]
            self._workers[worker] = self._new_tracer(WORKER_NAMES[span.role], span.worker_id)
        return self._workers[worker]

    async def close(self) -> None:
        # It may be waiting for a collector that is not there, and nobody waits for that.
        closing = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S)

    def _new_tracer(self, service_name: str, instance_id: str) -> Tracer:
        resource = Resource.create({SERVICE_NAME: service_name, SERVICE_INSTANCE_ID: instance_id})
        provider = TracerProvider(sampler=self._sampler, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        return provider.get_tracer("tandem")


class OtlpTrace(RequestTrace):
    """A request's trace: a span for all of it, which its client may have the parent of; in it one
    for its reading, and one for each choice, with its stages."""

    def __init__(self, tracing: OtlpTracing, root: Span, operation: str) -> None:
        self._tracing = tracing
        self._root = root
        self._operation = operation
        self._trace_id = format_trace_id(root.get_span_context().trace_id)
        # Spans have the time of day, which may be set; all of one trace move together.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self._began_s = time.monotonic()
        self._num_tokens = 0
        # By the choice.
        self._finish_reasons: dict[int, str] = {}

    @property
    def trace_id(self) -> str:
        return self._trace_id

    def submitted(
        self, request_id: str, model_name: str, num_prompt_tokens: int, params: SamplingParams
    ) -> None:
        self._add(TraceSpan("tokenize", self._began_s, time.monotonic()), self._root)
        self._root.update_name(f"{self._operation} {model_name}")
        self._root.set_attributes(
            {
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": "tandem",
                "gen_ai.request.model": model_name,
                "gen_ai.request.id": request_id,
                "gen_ai.request.max_tokens": params.max_tokens,
                "gen_ai.request.temperature": params.temperature,
                "gen_ai.request.top_p": params.top_p,
                "gen_ai.usage.input_tokens": num_prompt_tokens,
            }
        )

    def choice_ended(
        self, generation: Generation, times: TokenTimes, event: Ended | TandemError
    ) -> None:
        try:
            choice = self._add(choice_span(generation, times, event), self._root)
            for span in stage_spans(generation):
                self._add(span, choice)
        except Exception:
            # It costs the trace, not those who are served.
            log.exception("tracing failed", request_id=generation.request.request_id)
        self._num_tokens += len(generation.token_ids)
        self._finish_reasons[generation.request.choice_index] = finish_reason(event)
        if isinstance(event, TandemError):
            self._ended_by(event)

    def end(self, error: BaseException | None = None) -> None:
        if not self._root.is_recording():
            return
        if error is None:
            self._root.set_attribute("gen_ai.usage.output_tokens", self._num_tokens)
            reasons = [reason for _, reason in sorted(self._finish_reasons.items())]
            self._root.set_attribute("gen_ai.response.finish_reasons", reasons)
        else:
            self._ended_by(error)
        self._root.end(self._unix_ns(time.monotonic()))

    def _ended_by(self, error: BaseException) -> None:
        """Not that its client left is a failure. An error's words may be the client's own, and are
        left out."""
        if not isinstance(error, Cancelled | asyncio.CancelledError):
            reason = error.reason if isinstance(error, TandemError) else type(error).__name__
            _fail(self._root, reason)

    def _add(self, span: TraceSpan, parent: Span) -> Span:
        """Of what is over."""
        made = self._tracing.tracer_of(span).start_span(
            span.name,
            set_span_in_context(parent, Context()),
            attributes=span.attributes,
            start_time=self._unix_ns(span.start_s),
        )
        for event in span.events:
            made.add_event(event.name, timestamp=self._unix_ns(event.at_s))
        if span.error:
            _fail(made, span.error)
        made.end(self._unix_ns(span.end_s))
        return made

    def _unix_ns(self, at_s: float) -> int:
        return self._epoch_ns + int(at_s * 1e9)


def otlp_tracing(endpoint: str, sample: float | None, instance_id: str) -> OtlpTracing:
    """Traces for the collector at `endpoint`, of the share `sample` of the requests; None leaves it
    to the environment. So is what is not said here: the headers, the queue's length, the delay."""
    return OtlpTracing(
        BatchSpanProcessor(OTLPSpanExporter(endpoint, channel_options=_channel_options(endpoint))),
        None if sample is None else ParentBasedTraceIdRatio(sample),
        instance_id,
        os.environ.get(OTEL_SERVICE_NAME, GATEWAY_NAME),
    )


def _channel_options(endpoint: str) -> Any:
    # Not of the type that the exporter's signature says, but of what it takes.
    parts = urlsplit(endpoint)
    takes_proxy = may_take_proxy(parts.hostname or "", has_tls=parts.scheme == "https")
    return () if takes_proxy else (NO_PROXY,)


def _operation(request: GenerationRequest) -> str:
    is_chat = bool(request.prompts) and isinstance(request.prompts[0], ChatPrompt)
    return "chat" if is_chat else "text_completion"


def _fail(span: Span, reason: str) -> None:
    span.set_attribute("error.type", reason)
    span.set_status(Status(StatusCode.ERROR, reason))
