"""The gateway's end of one worker's command stream.

A link connects, asks who is there, opens the stream, numbers and sends commands, and hands every
report to its listener. If the stream breaks it tries for `GRACE_S` to take it up where it was: the
same epoch of the worker means that nothing was lost, and commands not yet applied are sent again.
Else the worker is lost, and joins as a new one when it is back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, monotonic_ns
from typing import Any, NoReturn, Protocol

import grpc
import structlog

from tandem.core.errors import Mismatch, TandemError, Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import (
    decode_pb2,
    decode_pb2_grpc,
    prefill_pb2,
    prefill_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from tandem.wire import commands, reports
from tandem.wire.channels import open_command_channel
from tandem.wire.descriptions import worker_from_wire
from tandem.wire.status import call_error, to_tandem_error

log = structlog.get_logger(__name__)

HEARTBEAT_S = 0.5
# A worker should say something every 0.5 s; one that misses this many is taken for dead.
SILENT_TURNS = 3
LEASE_S = 5.0
# How long a broken stream may take to be back.
GRACE_S = 1.0
RETRY_S = 0.25
CONNECT_TIMEOUT_S = 1.0
GOODBYE_TIMEOUT_S = 0.5


class LinkListener(Protocol):
    """Hears what happens to a worker. Called on the event loop; never waits."""

    def admits(self, info: WorkerInfo) -> None:
        """Raises `Mismatch` if the worker does not fit the others."""
        ...

    def joined(self, info: WorkerInfo, address: str) -> None: ...

    def lost(self, info: WorkerInfo, error: TandemError) -> None: ...

    def resumed(self, info: WorkerInfo, snapshot: Any, unapplied: Sequence[Any]) -> None:
        """The stream is back. `unapplied` are the commands that the worker has yet to see."""
        ...

    def heard(self, info: WorkerInfo, header: worker_pb2.WorkerHeader, received_ns: int) -> None:
        """Any message; before its reports."""
        ...

    def reported(self, info: WorkerInfo, reports: list[Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class RoleWire:
    """How a role's stream is opened and written."""

    open: Callable[[grpc.aio.Channel], Any]
    request: Callable[..., Any]
    command_to_wire: Callable[[Any], Any]
    report_from_wire: Callable[[Any], Any]
    snapshot_from_wire: Callable[[Any], Any]


ROLE_WIRES = {
    WorkerRole.PREFILL: RoleWire(
        open=lambda channel: prefill_pb2_grpc.PrefillServiceStub(channel).RunBatches(),
        request=prefill_pb2.RunBatchesRequest,
        command_to_wire=commands.prefill_command_to_wire,
        report_from_wire=reports.prefill_report_from_wire,
        snapshot_from_wire=reports.prefill_snapshot_from_wire,
    ),
    WorkerRole.DECODE: RoleWire(
        open=lambda channel: decode_pb2_grpc.DecodeServiceStub(channel).RunLoop(),
        request=decode_pb2.RunLoopRequest,
        command_to_wire=commands.decode_command_to_wire,
        report_from_wire=reports.decode_report_from_wire,
        snapshot_from_wire=reports.decode_snapshot_from_wire,
    ),
}


class WorkerLink:
    """One worker, by role and address. All methods are called on one event loop."""

    def __init__(
        self,
        role: WorkerRole,
        address: str,
        controller_id: str,
        first_term: int,
        listener: LinkListener,
    ) -> None:
        self._role = role
        self._address = address
        self._controller_id = controller_id
        self._term = first_term
        self._listener = listener
        self._wire = ROLE_WIRES[role]
        self._info: WorkerInfo | None = None
        self._lost_at = 0.0
        self._last_number = 0
        self._resumed_number = 0
        self._taken_report = 0
        self._due: list[Any] = []
        self._unapplied: deque[tuple[int, list[Any]]] = deque()
        self._wake = asyncio.Event()
        self._last_problem = ""
        self._silent_turns = 0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def has_worker(self) -> bool:
        """Whether a worker has joined, and is not lost."""
        return self._info is not None

    def send(self, command: Any) -> None:
        """Send a command, together with the others of this turn of the event loop."""
        self._due.append(command)
        self._wake.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"link {self._address}")

    def cancel(self) -> None:
        """For a link without a worker: from here on none can join. `stop` waits for its end."""
        self._stopping = True
        if self._task:
            self._task.cancel()

    async def stop(self) -> None:
        """Say goodbye, so that the worker ends the lease now and not when it has run out."""
        self._stopping = True
        self._wake.set()
        if self._task:
            await asyncio.wait({self._task}, timeout=GOODBYE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._connect_and_serve()
            except TandemError as error:
                self._broken(error)
            except grpc.aio.AioRpcError as error:
                self._broken(to_tandem_error(error))
            except Exception as error:
                # A bug of ours. The worker's requests fail and it joins anew; else it would be
                # served by nobody, and nobody would know.
                log.exception("link failed", address=self._address)
                self._lose(TandemError(f"the link failed: {type(error).__name__}"))
            await asyncio.sleep(RETRY_S)

    def _broken(self, error: TandemError) -> None:
        """Decide whether the worker is lost, or has its grace."""
        if self._stopping:
            return
        now = monotonic()
        if self._info is None:
            if error.message != self._last_problem:
                self._last_problem = error.message
                log.warning("no worker yet", address=self._address, why=error.message)
        elif self._lost_at == 0.0:
            self._lost_at = now + GRACE_S
            log.warning("stream broke", worker=self._info.worker_id, why=error.message)
        if self._info and now >= self._lost_at:
            self._lose(error)

    def _lose(self, error: TandemError) -> None:
        info, self._info = self._info, None
        self._lost_at = 0.0
        self._due.clear()
        self._unapplied.clear()
        if info:
            log.error("worker lost", worker=info.worker_id, why=error.message)
            try:
                self._listener.lost(info, Unavailable(f"worker {info.worker_id} was lost"))
            except Exception:
                # Also a bug of ours; the link must not end with it.
                log.exception("listener failed", address=self._address)

    async def _connect_and_serve(self) -> None:
        async with open_command_channel(self._address) as channel:
            info = await self._describe(channel)
            if self._info and self._info.epoch != info.epoch:
                self._lose(Unavailable("it was restarted"))
            if self._info is None:
                self._listener.admits(info)
                self._term += 1
                self._last_number = self._resumed_number = self._taken_report = 0
            call = self._wire.open(channel)
            await call.write(self._request(hello=self._hello()))
            await self._receive_snapshot(call, info)
            await self._serve(call, info)

    async def _describe(self, channel: grpc.aio.Channel) -> WorkerInfo:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        response = await stub.Describe(
            worker_pb2.DescribeRequest(), timeout=CONNECT_TIMEOUT_S, wait_for_ready=True
        )
        info = worker_from_wire(response.worker)
        if info.role is not self._role:
            raise Mismatch(f"{self._address} is a {info.role.name} worker, not {self._role.name}")
        return info

    def _hello(self) -> worker_pb2.ControllerHello:
        return worker_pb2.ControllerHello(
            controller_id=self._controller_id, term=self._term, lease_ms=int(LEASE_S * 1000)
        )

    async def _receive_snapshot(self, call: Any, info: WorkerInfo) -> None:
        try:
            async with asyncio.timeout(SILENT_TURNS * HEARTBEAT_S):
                response = await self._read(call)
        except TimeoutError:
            raise Unavailable("its stream did not open in time") from None
        if not response.HasField("snapshot"):
            raise Mismatch(f"{info.worker_id} opened its stream without a snapshot")
        if self._info is None:
            # Again, since other links got on while this one waited; from here on nobody can.
            self._listener.admits(info)
            self._info = info
            self._lost_at = 0.0
            self._last_problem = ""
            log.info("worker joined", worker=info.worker_id, address=self._address)
            self._listener.joined(info, self._address)
        else:
            self._resumed_number = self._last_number
            self._applied(response.header.applied_command)
            self._listener.resumed(
                info, self._wire.snapshot_from_wire(response.snapshot), self._unapplied_commands()
            )
        self._taken_report = response.header.report_number
        self._listener.heard(info, response.header, monotonic_ns())

    async def _serve(self, call: Any, info: WorkerInfo) -> None:
        """Read, write and keep watch, until one of these ends. Raises what ended the stream."""
        reading = asyncio.create_task(self._take_all(call, info))
        writing = asyncio.create_task(self._write(call))
        watching = asyncio.create_task(self._watch())
        tasks = {reading, writing, watching}
        try:
            while not reading.done():
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if watching in done:
                    watching.result()
                if writing in done:
                    _check_writer(writing)
            reading.result()
        finally:
            for task in (reading, writing, watching):
                await _end(task)
            call.cancel()

    async def _take_all(self, call: Any, info: WorkerInfo) -> NoReturn:
        while True:
            response = await self._read(call)
            self._silent_turns = 0
            self._applied(response.header.applied_command)
            self._listener.heard(info, response.header, monotonic_ns())
            if response.reports:
                self._listener.reported(
                    info, [self._wire.report_from_wire(each) for each in response.reports]
                )
            self._taken_report = response.header.report_number

    async def _read(self, call: Any) -> Any:
        """The next message. Raises what ended the stream, at either end of it."""
        response = await call.read()
        if response is grpc.aio.EOF:
            raise to_tandem_error(await call_error(call))
        return response

    async def _watch(self) -> NoReturn:
        """Raise `Unavailable` once the worker has been silent for too long.

        Silence is counted in turns, not on the clock: if it was this process that stood still, one
        turn passes, and then what the worker said meanwhile is read.
        """
        self._silent_turns = 0
        while self._silent_turns < SILENT_TURNS:
            await asyncio.sleep(HEARTBEAT_S)
            self._silent_turns += 1
        # No grace for a worker that may be a zombie.
        self._lost_at = monotonic()
        raise Unavailable(f"nothing was heard for {SILENT_TURNS * HEARTBEAT_S} s")

    async def _write(self, call: Any) -> None:
        """Send again what was not applied, then what is due, and a heartbeat when nothing is; at
        the end, a goodbye."""
        for number, batch in list(self._unapplied):
            await call.write(self._request(number, batch))
        while not self._stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), HEARTBEAT_S)
            self._wake.clear()
            number = 0
            batch, self._due = self._due, []
            if batch:
                self._last_number += 1
                number = self._last_number
                self._unapplied.append((number, batch))
            await call.write(self._request(number, batch))
        header = worker_pb2.ControllerHeader(sent_ns=monotonic_ns(), goodbye=True)
        await call.write(self._wire.request(header=header))

    def _request(
        self,
        number: int = 0,
        batch: list[Any] | None = None,
        hello: worker_pb2.ControllerHello | None = None,
    ) -> Any:
        return self._wire.request(
            header=worker_pb2.ControllerHeader(
                number=number,
                hello=hello,
                sent_ns=monotonic_ns(),
                taken_report=self._taken_report,
            ),
            commands=map(self._wire.command_to_wire, batch or ()),
        )

    def _applied(self, number: int) -> None:
        while self._unapplied and self._unapplied[0][0] <= number:
            self._unapplied.popleft()
        if number >= self._resumed_number:
            # The worker has what it missed: the break is over.
            self._lost_at = 0.0

    def _unapplied_commands(self) -> list[Any]:
        return [command for _, batch in self._unapplied for command in batch] + self._due


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait for it; what it raises has been told already."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _check_writer(writing: asyncio.Task[None]) -> None:
    """Raise what ended the writer, unless it is the stream that broke: the read says why."""
    error = None if writing.cancelled() else writing.exception()
    if error and not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError):
        raise error
