"""The gateway's end of one worker's command stream.

A link connects, asks who is there, opens the stream, numbers and sends commands, and hands every
report to its listener. If the stream breaks, or the worker is silent for too long, the worker is
suspected, and its stream opened again where it was: the same epoch means that nothing was lost, and
commands not yet applied are sent again. It is lost when its lease is over, when nothing listens at
its address any more, or when it has another epoch; it then joins as a new one when it is back.
"""

from __future__ import annotations

import asyncio
from itertools import count
from time import monotonic, monotonic_ns
from typing import Any, NoReturn

import grpc

from gateway.command_log import HEARTBEAT, CommandBatch
from gateway.link_listener import LinkListener
from gateway.liveness import CONNECT_TIMEOUT_S, LEASE_S, OPEN_TIMEOUT_S, RETRY_S
from gateway.role_wire import ROLE_WIRES
from gateway.standing import Standing
from tandem.core.address import parse_address
from tandem.core.errors import Fenced, Mismatch, TandemError, Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import worker_pb2, worker_pb2_grpc
from tandem.wire.channels import open_command_channel
from tandem.wire.descriptions import worker_from_wire
from tandem.wire.status import call_error, to_tandem_error
from tandem.wire.tls import ChannelTls

HEARTBEAT_S = 0.5
# How often it is looked whether the worker was heard of.
TURN_S = HEARTBEAT_S / 2
# Who is there and cannot be taken, as it does not fit or is another gateway's, is asked again so
# much later: each time takes a connection, of both ends.
REFUSED_S = 1.0
GOODBYE_TIMEOUT_S = 0.5


class WorkerLink:
    """One worker, by role and address. All methods are called on one event loop."""

    def __init__(
        self,
        role: WorkerRole,
        address: str,
        controller_id: str,
        first_term: int,
        listener: LinkListener,
        tls: ChannelTls | None = None,
    ) -> None:
        self._role = role
        self._address = address
        self._controller_id = controller_id
        self._term = first_term
        self._listener = listener
        self._tls = tls
        self._wire = ROLE_WIRES[role]
        self._num_streams = 0
        self._taken_report = 0
        self._wake = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._standing = Standing(address, listener, self._hang_up.set)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def has_worker(self) -> bool:
        """Whether a worker has joined, and is not lost."""
        return self._standing.info is not None

    def send(self, command: Any) -> None:
        """Send a command, together with the others of this turn of the event loop."""
        self._standing.commands.add(command)
        self._wake.set()

    def let_go(self) -> None:
        """Say goodbye to the worker, which holds nothing any more and is about to end."""
        self._standing.is_leaving = True
        self._wake.set()

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name=f"link {self._address}"),
            asyncio.create_task(self._watch(), name=f"watch {self._address}"),
        ]

    def cancel(self) -> None:
        """From here on no worker can join. One that has just come is lost. `stop` waits for the
        link's end."""
        self._stopping = True
        self._cancel_tasks()
        self._standing.lose(Unavailable("nobody looks for it any more"))

    async def stop(self) -> None:
        """Say goodbye, so that the worker ends the lease now and not when it has run out."""
        self._stopping = True
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=GOODBYE_TIMEOUT_S)
            self._cancel_tasks()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    # Whether the worker lives

    async def _watch(self) -> None:
        """Count the worker's silence, and let it be told at least every `HEARTBEAT_S` that its
        controller lives. Needs no message and no stream to run."""
        before = monotonic()
        for turn in count():
            await asyncio.sleep(TURN_S)
            before, elapsed_s = (now := monotonic()), now - before
            if turn % 2:
                self._wake.set()
            try:
                self._standing.wait(elapsed_s)
            except Exception as error:
                self._standing.fail(error)

    # The stream

    async def _run(self) -> None:
        while not self._stopping:
            pause_s = RETRY_S
            try:
                await self._connect_and_serve()
            except Exception as error:
                pause_s = self._stream_ended(error)
            await asyncio.sleep(pause_s)

    def _stream_ended(self, error: Exception) -> float:
        """By this. The listener is told, and may fail as well: the link goes on, after so many
        seconds."""
        try:
            if isinstance(error, grpc.aio.AioRpcError):
                error = to_tandem_error(error, in_full=True)
            if not isinstance(error, TandemError):
                self._standing.fail(error)
            elif not self._stopping:
                self._standing.broken(error)
        except Exception as failure:
            self._standing.fail(failure)
        return RETRY_S if self.has_worker else _pause_s(error)

    async def _connect_and_serve(self) -> None:
        if self._standing.info:
            await self._look_for_listener()
        async with open_command_channel(self._address, self._tls) as channel:
            known = self._standing.info
            info = known or await self._introduction(channel)
            call = self._wire.open(channel)
            snapshot = await self._open(call, info)
            if known is None:
                # Which it may not, since other links got on while this one waited.
                self._standing.join(info)
            elif self._standing.info is None:
                raise Unavailable("it was lost while its stream was opened")
            self._listener.heard(info, snapshot.header, monotonic_ns())
            if known:
                self._resume(info, snapshot)
            self._taken_report = snapshot.header.report_number
            await self._serve(call, info)

    async def _look_for_listener(self) -> None:
        """Give up a worker at whose address nothing listens any more: its process has ended."""
        address = parse_address(self._address)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(address.host, address.port)
        except ConnectionRefusedError:
            error = Unavailable("nothing listens at its address any more")
            self._standing.lose(error)
            raise error from None
        except OSError:
            return  # Says nothing of the worker. (A timeout is one, too.)
        writer.close()

    async def _introduction(self, channel: grpc.aio.Channel) -> WorkerInfo:
        """Who is there, for a worker that has yet to join; its stream begins a new term."""
        response = await self._describe(channel)
        info = worker_from_wire(response.worker)
        if info.role is not self._role:
            raise Mismatch(f"{self._address} is a {info.role.name} worker, not {self._role.name}")
        if response.draining:
            raise Unavailable(f"{info.worker_id} is about to end")
        self._listener.admits(info)
        # Above all that it has seen: also of a gateway whose clock was ahead of ours.
        self._term = max(self._term, response.newest_term) + 1
        self._taken_report = 0
        return info

    async def _describe(self, channel: grpc.aio.Channel) -> worker_pb2.DescribeResponse:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        request = worker_pb2.DescribeRequest()
        try:
            return await stub.Describe(request, timeout=CONNECT_TIMEOUT_S, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        # What kept the connection from being made, gRPC tells only who does not wait for it.
        return await stub.Describe(request, timeout=RETRY_S)

    async def _open(self, call: Any, info: WorkerInfo) -> Any:
        """The stream's first message, which has a snapshot."""
        self._num_streams += 1
        hello = worker_pb2.ControllerHello(
            controller_id=self._controller_id,
            term=self._term,
            lease_ms=int(LEASE_S * 1000),
            stream=self._num_streams,
        )
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await call.write(self._request(hello=hello))
                response = await self._read(call)
        except TimeoutError:
            raise Unavailable("its stream did not open in time") from None
        if response.header.worker_epoch != info.epoch:
            error = Unavailable("it was restarted")
            self._standing.lose(error)
            raise error
        if not response.HasField("snapshot"):
            raise Mismatch(f"{info.worker_id} opened its stream without a snapshot")
        return response

    def _resume(self, info: WorkerInfo, response: Any) -> None:
        self._standing.commands.resume()
        self._standing.applied(response.header.applied_command)
        snapshot = self._wire.snapshot_from_wire(response.snapshot)
        self._listener.resumed(info, snapshot, self._standing.commands.open_commands)

    async def _serve(self, call: Any, info: WorkerInfo) -> None:
        """Read and write until one of these ends. Raises what ended the stream."""
        self._hang_up.clear()
        reading = asyncio.create_task(self._take_all(call, info))
        writing = asyncio.create_task(self._write(call))
        hanging_up = asyncio.create_task(self._hang_up.wait())
        tasks = {reading, writing, hanging_up}
        try:
            while not reading.done():
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if hanging_up in done:
                    raise Unavailable("it has gone silent")
                if writing in done:
                    _check_writer(writing)
            reading.result()
        finally:
            for task in (reading, writing, hanging_up):
                await _end(task)
            call.cancel()

    async def _take_all(self, call: Any, info: WorkerInfo) -> NoReturn:
        while True:
            response = await self._read(call)
            if self._standing.info is not info:
                raise Unavailable("it was lost, and speaks again")
            self._standing.applied(response.header.applied_command)
            received_ns = monotonic_ns()
            reports = [self._wire.report_from_wire(each) for each in response.reports]
            self._listener.heard(info, response.header, received_ns, reports)
            self._taken_report = response.header.report_number

    async def _read(self, call: Any) -> Any:
        """The next message. Raises what ended the stream, at either end of it."""
        response = await call.read()
        if response is grpc.aio.EOF:
            raise to_tandem_error(await call_error(call), in_full=True)
        return response

    async def _write(self, call: Any) -> None:
        """Send again what was not applied, then what is due, or a heartbeat, as often as there is a
        reason; at the end, a goodbye."""
        standing = self._standing
        for batch in standing.commands.unapplied:
            await call.write(self._request(batch))
        while not (self._stopping or standing.is_leaving):
            await self._wake.wait()
            self._wake.clear()
            await call.write(self._request(standing.commands.take()))
            if standing.commands.has_due:
                self._wake.set()
        header = worker_pb2.ControllerHeader(sent_ns=monotonic_ns(), goodbye=True)
        await call.write(self._wire.request(header=header))

    def _request(
        self, batch: CommandBatch = HEARTBEAT, hello: worker_pb2.ControllerHello | None = None
    ) -> Any:
        return self._wire.request(
            header=worker_pb2.ControllerHeader(
                number=batch.number,
                hello=hello,
                sent_ns=monotonic_ns(),
                taken_report=self._taken_report,
            ),
            commands=map(self._wire.command_to_wire, batch.commands),
        )


def _pause_s(error: Exception) -> float:
    """When to look again for a worker that has not joined by this."""
    match error:
        case Mismatch():
            return REFUSED_S
        case Fenced(retry_after_s=float(lease_s)):
            return min(REFUSED_S, max(RETRY_S, lease_s))
    return RETRY_S


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait for it; what it raises has been told already."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _check_writer(writing: asyncio.Task[None]) -> None:
    """Raise what ended the writer, unless it is the stream that broke: the read says why."""
    error = None if writing.cancelled() else writing.exception()
    if error and not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError):
        raise error
