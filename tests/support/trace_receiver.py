"""A collector of traces, in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class Received:
    """A span, and who exported it."""

    service: str
    instance: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def failed(self) -> bool:
        return self.span.status.code == Status.STATUS_CODE_ERROR

    @property
    def events(self) -> list[str]:
        return [event.name for event in self.span.events]

    @property
    def attributes(self) -> dict[str, Any]:
        return {each.key: _value(each.value) for each in self.span.attributes}


@dataclass(frozen=True)
class Trace:
    """All spans of one trace."""

    spans: Sequence[Received]

    def of(self, name: str) -> list[Received]:
        """Those of this name, or whose name begins so before a blank, in order of their start."""
        found = [each for each in self.spans if each.name.split(" ")[0] == name]
        return sorted(found, key=lambda each: each.span.start_time_unix_nano)

    def one(self, name: str) -> Received:
        (found,) = self.of(name)
        return found

    def parent_of(self, child: Received) -> Received | None:
        by_id = {each.span.span_id: each for each in self.spans}
        return by_id.get(child.span.parent_span_id)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[Received] = []
        self.raw: list[bytes] = []
        self._arrived = asyncio.Event()

    async def Export(self, request: Any, context: object) -> Any:
        self.raw.append(request.SerializeToString())
        for resource_spans in request.resource_spans:
            of = {each.key: each.value.string_value for each in resource_spans.resource.attributes}
            service, instance = of["service.name"], of["service.instance.id"]
            for scope in resource_spans.scope_spans:
                self.spans += [Received(service, instance, span) for span in scope.spans]
        self._arrived.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    def traces(self) -> list[Trace]:
        """Those whose request has ended: its span is the last of all."""
        by_id: dict[str, list[Received]] = {}
        for each in self.spans:
            by_id.setdefault(each.trace_id, []).append(each)
        traces = [Trace(spans) for spans in by_id.values()]
        return [trace for trace in traces if any(map(_is_root, trace.spans))]

    async def trace(self, has: Callable[[Trace], bool] = lambda trace: True) -> Trace:
        """Wait for a trace."""
        async with asyncio.timeout(60):
            while not (found := [trace for trace in self.traces() if has(trace)]):
                self._arrived.clear()
                await self._arrived.wait()
        return found[0]


def _is_root(received: Received) -> bool:
    return received.span.kind == Span.SPAN_KIND_SERVER


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens at its `address`."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
