"""The command stream, as both services serve it: numbered commands in, reports out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, monotonic_ns
from typing import Any, Generic, Protocol, TypeVar

import grpc

from tandem.core.errors import Fenced, Mismatch, TandemError
from tandem.faults.injector import FaultInjector
from tandem.v1 import worker_pb2
from tandem.wire.reports import cache_changes_to_wire, span_to_wire
from tandem.wire.status import abort
from tandem.wire.tls import Role, require_role
from tandem.worker.lease import Controller
from tandem.worker.worker import Worker

HEARTBEAT_S = 0.5
# How long a stream may take to begin. Its controller gives it up much sooner.
HELLO_S = 30.0
# Bytes of a message's reports, unless its one report has more: gRPC takes no message of over
# 16 MiB, and what a controller has not read for a while may be more.
MAX_BYTES = 4 * 2**20


class StreamRequest(Protocol):
    """`RunBatchesRequest` or `RunLoopRequest`."""

    @property
    def header(self) -> worker_pb2.ControllerHeader: ...
    @property
    def commands(self) -> Sequence[Any]: ...


RequestT = TypeVar("RequestT", bound=StreamRequest)
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True)
class Dialect(Generic[ResponseT]):
    """How a role's commands and reports are written on the wire."""

    response: Callable[..., ResponseT]
    command_from_wire: Callable[[Any], Any]
    report_to_wire: Callable[[Any], Any]
    snapshot_to_wire: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """Up to which command a worker has applied what it was told, and up to which report it has told
    what there was to tell."""

    applied_command: int
    report_number: int

    @classmethod
    def of(cls, worker: Worker[Any, Any, Any]) -> Progress:
        """As it will be when all that was taken is told."""
        return cls(worker.applied_command, worker.state.reports.last_taken)


class CommandStreams(Generic[RequestT, ResponseT]):
    """Serves command streams for a worker, one at a time: a newer one takes the place of the older,
    also another controller's once the lease is over."""

    def __init__(
        self,
        worker: Worker[Any, Any, Any],
        dialect: Dialect[ResponseT],
        injector: FaultInjector | None = None,
    ) -> None:
        self._worker = worker
        self._dialect = dialect
        self._injector = injector
        self._current: _Stream[ResponseT] | None = None

    async def serve(
        self,
        requests: AsyncIterator[RequestT],
        context: grpc.aio.ServicerContext[RequestT, ResponseT],
    ) -> AsyncIterator[ResponseT]:
        """Responses to one stream of requests, which ends with an error if its sender is no gateway
        (`PermissionDenied`), not the controller (`Fenced`: another is, or the term is outdated) or
        breaks the protocol (`Mismatch`).

        The lease ends with the controller's goodbye; when the stream breaks, it runs on, for the
        controller to come back.
        """
        try:
            require_role(context, Role.GATEWAY)
            async for response in self._serve(requests):
                yield response
        except TandemError as error:
            await abort(context, error)

    async def _serve(self, requests: AsyncIterator[RequestT]) -> AsyncIterator[ResponseT]:
        opening: RequestT | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(HELLO_S):
                opening = await anext(requests, None)
        if opening is None or not opening.header.HasField("hello"):
            raise Mismatch("a command stream must begin with the controller's hello")
        hello = opening.header.hello
        self._worker.acquire(
            Controller(hello.controller_id, hello.term, hello.lease_ms / 1000, hello.stream)
        )
        if self._current:
            self._current.supersede(hello.controller_id)
        stream = self._current = _Stream(self._worker, self._dialect)
        stream.heard(opening.header)
        reading = asyncio.create_task(stream.read(requests))
        try:
            responses = stream.responses(reading)
            if self._injector:
                responses = self._injector.reports(responses)
            async for response in responses:
                yield response
        finally:
            reading.cancel()
            if self._current is stream:
                self._current = None


class _Stream(Generic[ResponseT]):
    def __init__(self, worker: Worker[Any, Any, Any], dialect: Dialect[ResponseT]) -> None:
        self._worker = worker
        self._dialect = dialect
        self._echoed_ns = 0
        self._received_ns = 0
        # Whoever has opened a newer stream.
        self._successor: str | None = None
        self._num_unused_slots = worker.num_unused_slots()
        self._told = Progress(0, 0)

    def supersede(self, controller_id: str) -> None:
        """This controller, perhaps another than this stream's, has opened a newer one."""
        self._successor = controller_id
        self._worker.news.set()

    def heard(self, header: worker_pb2.ControllerHeader) -> None:
        self._echoed_ns, self._received_ns = header.sent_ns, monotonic_ns()
        self._worker.lease.renew(monotonic())
        self._worker.acknowledge(header.taken_report)

    async def read(self, requests: AsyncIterator[StreamRequest]) -> None:
        """Apply what comes, to the end of the stream."""
        try:
            async for request in requests:
                if self._is_over:
                    return
                self.heard(request.header)
                commands = self._new_commands(request)
                await self._worker.hash_ahead(commands or ())
                if self._is_over:
                    return
                if commands is not None:
                    self._worker.apply(commands)
                if request.header.goodbye:
                    self._worker.release_lease()
                    return
        finally:
            self._worker.news.set()

    @property
    def _is_over(self) -> bool:
        """Whether what comes on this stream counts no more."""
        return self._successor is not None or self._worker.lease.holder is None

    def _new_commands(self, request: StreamRequest) -> list[Any] | None:
        """A request's commands; None if it has none, or is a repeated one."""
        number = request.header.number
        if number == 0 or number <= self._worker.applied_command:
            return None
        if number != self._worker.applied_command + 1:
            raise Mismatch(f"commands {number} came after commands {self._worker.applied_command}")
        return [self._dialect.command_from_wire(each) for each in request.commands]

    async def responses(self, reading: asyncio.Task[None]) -> AsyncIterator[ResponseT]:
        yield self._opening()
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                await self._worker.news.wait()
                self._check_newest()
                if reading.done():
                    reading.result()
                    return
                if self._worker.lease.holder is None:
                    raise Fenced("the controller's lease has expired")
                for response in self._news():
                    yield response
                    self._check_newest()
        finally:
            beating.cancel()

    def _opening(self) -> ResponseT:
        """All that there is; kept by nobody, since it may be megabytes."""
        snapshot = self._dialect.snapshot_to_wire(self._worker.take_snapshot())
        self._told = Progress.of(self._worker)
        return self._respond(self._told, whole_cache=True, snapshot=snapshot)

    def _check_newest(self) -> None:
        """A newer stream says what else there is to say."""
        if self._successor is not None:
            raise Fenced(f"controller {self._successor} has opened a newer stream")

    async def _beat(self) -> None:
        """Let something be said at least every `HEARTBEAT_S`. A task of its own: a timeout for each
        wait would cost more than the reports of a step. Unused slots are counted no more often."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._num_unused_slots = self._worker.num_unused_slots()
            self._worker.news.set()

    def _news(self) -> Iterator[ResponseT]:
        """What there is to say: more than one message if one cannot carry it, of which none says
        that a command is applied before the reports that this led to."""
        reports = self._worker.take_reports()
        before, self._told = self._told, Progress.of(self._worker)
        *parts, last = _parts(map(self._dialect.report_to_wire, reports))
        for part in parts:
            before = replace(before, report_number=before.report_number + len(part))
            yield self._respond(before, reports=part)
        yield self._respond(self._told, reports=last)

    def _respond(self, told: Progress, whole_cache: bool = False, **content: Any) -> ResponseT:
        worker = self._worker
        changes = worker.take_cache_changes(whole_cache)
        return self._dialect.response(
            header=worker_pb2.WorkerHeader(
                worker_epoch=worker.info.epoch,
                applied_command=told.applied_command,
                sent_ns=monotonic_ns(),
                echoed_ns=self._echoed_ns,
                received_ns=self._received_ns,
                num_free_blocks=worker.num_free_blocks(),
                num_unused_slots=self._num_unused_slots,
                spans=map(span_to_wire, worker.take_spans()),
                report_number=told.report_number,
                prefix_cache=cache_changes_to_wire(changes) if changes else None,
                draining_ms=worker.draining_ms,
            ),
            **content,
        )


def _parts(messages: Iterable[Any]) -> Iterator[list[Any]]:
    """As many of them at once as a message can carry; if there are none, that."""
    part: list[Any] = []
    num_bytes = 0
    for message in messages:
        size = message.ByteSize()
        if part and num_bytes + size > MAX_BYTES:
            yield part
            part, num_bytes = [], 0
        part.append(message)
        num_bytes += size
    yield part
