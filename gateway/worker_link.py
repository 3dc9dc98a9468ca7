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
from math import inf
from time import monotonic, monotonic_ns
from typing import Any, NoReturn

import grpc
import structlog

from gateway.command_log import HEARTBEAT, CommandBatch, CommandLog
from gateway.link_listener import LinkListener
from gateway.liveness import LEASE_S, Liveness
from gateway.role_wire import ROLE_WIRES
from tandem.core.address import parse_address
from tandem.core.errors import Fenced, Mismatch, TandemError, Unavailable
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import worker_pb2, worker_pb2_grpc
from tandem.wire.channels import open_command_channel
from tandem.wire.descriptions import worker_from_wire
from tandem.wire.status import call_error, to_tandem_error
from tandem.wire.tls import ChannelTls

log = structlog.get_logger(__name__)

HEARTBEAT_S = 0.5
# How often it is looked whether the worker was heard of.
TURN_S = HEARTBEAT_S / 2
RETRY_S = 0.1
CONNECT_TIMEOUT_S = 1.0
OPEN_TIMEOUT_S = 1.5
GOODBYE_TIMEOUT_S = 0.5
# A gateway that holds a worker for longer is alive: the lease of a dead one is over by then.
HELD_S = LEASE_S + 2.0


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
        self._info: WorkerInfo | None = None
        self._liveness = Liveness()
        self._told_suspect = False
        self._commands = CommandLog()
        self._taken_report = 0
        self._wake = asyncio.Event()
        self._hang_up = asyncio.Event()
        self._last_problem = ""
        # Since when another gateway holds the worker; inf once that was told.
        self._held_since: float | None = None
        self._stopping = False
        self._leaving = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def has_worker(self) -> bool:
        """Whether a worker has joined, and is not lost."""
        return self._info is not None

    def send(self, command: Any) -> None:
        """Send a command, together with the others of this turn of the event loop."""
        self._commands.add(command)
        self._wake.set()

    def let_go(self) -> None:
        """Say goodbye to the worker, which holds nothing any more and is about to end."""
        self._leaving = True
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
        self._lose(Unavailable("nobody looks for it any more"))

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
                self._wait(elapsed_s)
            except Exception as error:
                self._failed(error)

    def _wait(self, elapsed_s: float) -> None:
        if self._info is None:
            return
        self._liveness.wait(elapsed_s)
        if self._liveness.is_lost:
            self._lose(Unavailable(f"it was not heard of for {LEASE_S} s"))
        elif self._liveness.is_suspect and not self._told_suspect:
            # Over a new connection it may be heard.
            self._hang_up.set()
        self._tell()

    def _tell(self) -> None:
        """Let the listener know what has changed of the worker's standing."""
        suspect = self._liveness.is_suspect
        if self._info and suspect is not self._told_suspect:
            self._told_suspect = suspect
            (self._listener.suspected if suspect else self._listener.trusted)(self._info)

    def _lose(self, error: TandemError) -> None:
        info, self._info = self._info, None
        self._hang_up.set()
        self._commands = CommandLog()
        if info:
            log.error("worker lost", worker=info.worker_id, why=error.message)
            try:
                self._listener.lost(info, Unavailable(f"worker {info.worker_id} was lost"))
            except Exception:
                # Also a bug of ours; the link must not end with it.
                log.exception("listener failed", address=self._address)

    def _broken(self, error: TandemError) -> None:
        """The stream is no more, or could not be opened."""
        if self._stopping:
            return
        if self._leaving:
            self._leave()
            return
        if self._info is None:
            if error.message != self._last_problem:
                self._last_problem = error.message
                log.warning("no worker yet", address=self._address, why=error.message)
            self._tell_if_held(error)
            return
        if isinstance(error, Fenced):
            # The lease is over, and what we had there with it.
            self._lose(error)
            return
        if not self._told_suspect:
            log.warning("stream broke", worker=self._info.worker_id, why=error.message)
        self._liveness.break_stream()
        self._tell()

    def _tell_if_held(self, error: TandemError) -> None:
        """Say once that another gateway holds the worker, and is not going to end."""
        if not isinstance(error, Fenced):
            self._held_since = None
        elif self._held_since is None:
            self._held_since = monotonic()
        elif monotonic() - self._held_since > HELD_S:
            self._held_since = inf
            mend = "give each gateway its own workers, or start them all with --standby"
            log.error("another gateway's worker", address=self._address, why=error.message, do=mend)

    def _leave(self) -> None:
        """The stream has ended by our goodbye. If it broke before, the lease will run out."""
        info, self._info = self._info, None
        self._leaving = False
        self._commands = CommandLog()
        if info:
            log.info("worker left", worker=info.worker_id)
            self._listener.left(info)

    def _failed(self, error: Exception) -> None:
        """A bug of ours. The worker's requests fail and it joins anew; else it would be served by
        nobody, and nobody would know."""
        log.error("link failed", address=self._address, exc_info=error)
        self._lose(TandemError(f"the link failed: {type(error).__name__}"))

    # The stream

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._connect_and_serve()
            except Exception as error:
                self._stream_ended(error)
            await asyncio.sleep(RETRY_S)

    def _stream_ended(self, error: Exception) -> None:
        """By this. The listener is told, and may fail as well: the link goes on."""
        try:
            if isinstance(error, TandemError):
                self._broken(error)
            elif isinstance(error, grpc.aio.AioRpcError):
                self._broken(to_tandem_error(error))
            else:
                self._failed(error)
        except Exception as failure:
            self._failed(failure)

    async def _connect_and_serve(self) -> None:
        if self._info:
            await self._look_for_listener()
        async with open_command_channel(self._address, self._tls) as channel:
            known = self._info
            info = known or await self._introduction(channel)
            call = self._wire.open(channel)
            snapshot = await self._open(call, info)
            if known is None:
                self._join(info)
            elif self._info is None:
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
            self._lose(error)
            raise error from None
        except OSError:
            return  # Says nothing of the worker. (A timeout is one, too.)
        writer.close()

    async def _introduction(self, channel: grpc.aio.Channel) -> WorkerInfo:
        """Who is there, for a worker that has yet to join; its stream begins a new term."""
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        response = await stub.Describe(
            worker_pb2.DescribeRequest(), timeout=CONNECT_TIMEOUT_S, wait_for_ready=True
        )
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

    async def _open(self, call: Any, info: WorkerInfo) -> Any:
        """The stream's first message, which has a snapshot."""
        hello = worker_pb2.ControllerHello(
            controller_id=self._controller_id, term=self._term, lease_ms=int(LEASE_S * 1000)
        )
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await call.write(self._request(hello=hello))
                response = await self._read(call)
        except TimeoutError:
            raise Unavailable("its stream did not open in time") from None
        if response.header.worker_epoch != info.epoch:
            error = Unavailable("it was restarted")
            self._lose(error)
            raise error
        if not response.HasField("snapshot"):
            raise Mismatch(f"{info.worker_id} opened its stream without a snapshot")
        return response

    def _join(self, info: WorkerInfo) -> None:
        # Again, since other links got on while this one waited; from here on nobody can.
        self._listener.admits(info)
        self._info = info
        self._liveness = Liveness()
        self._told_suspect = self._leaving = False
        self._last_problem = ""
        self._held_since = None
        log.info("worker joined", worker=info.worker_id, address=self._address)
        self._listener.joined(info, self._address)

    def _resume(self, info: WorkerInfo, response: Any) -> None:
        self._commands.resume()
        self._applied(response.header.applied_command)
        snapshot = self._wire.snapshot_from_wire(response.snapshot)
        self._listener.resumed(info, snapshot, self._commands.open_commands)

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
            if self._info is not info:
                raise Unavailable("it was lost, and speaks again")
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

    async def _write(self, call: Any) -> None:
        """Send again what was not applied, then what is due, or a heartbeat, as often as there is a
        reason; at the end, a goodbye."""
        for batch in self._commands.unapplied:
            await call.write(self._request(batch))
        while not (self._stopping or self._leaving):
            await self._wake.wait()
            self._wake.clear()
            await call.write(self._request(self._commands.take()))
            if self._commands.has_due:
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

    def _applied(self, number: int) -> None:
        """The worker was heard of, and has applied commands up to `number`."""
        if self._commands.applied(number):
            self._liveness.trust()
            self._tell()


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait for it; what it raises has been told already."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _check_writer(writing: asyncio.Task[None]) -> None:
    """Raise what ended the writer, unless it is the stream that broke: the read says why."""
    error = None if writing.cancelled() else writing.exception()
    if error and not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError):
        raise error
