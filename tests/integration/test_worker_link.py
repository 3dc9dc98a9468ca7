"""Links to workers that break, go silent, or do what they should not."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from fake_workers import MODEL, fake_worker
from stack import (
    RecordingDispatcher,
    Stack,
    WorkerProcess,
    collect,
    expected_mock_tokens,
    running_stack,
    upcoming,
)
from structlog.testing import capture_logs

from gateway import standing
from gateway.dispatcher import Dispatcher
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from gateway.tokens import TokenRequest
from gateway.worker_link import REFUSED_S, WorkerLink
from tandem.core.commands import Remove
from tandem.core.errors import Fenced, Mismatch, TandemError, Unavailable
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.v1 import decode_pb2, decode_pb2_grpc, worker_pb2, worker_pb2_grpc
from tandem.wire import channels
from tandem.wire.channels import new_server
from tandem.wire.descriptions import worker_to_wire
from tandem.wire.status import abort

PROMPT = tuple(range(100))
Script = Callable[[AsyncIterator[Any]], AsyncIterator[Any]]


def message(applied: int = 0, epoch: int = 1, **content: Any) -> decode_pb2.RunLoopResponse:
    header = worker_pb2.WorkerHeader(worker_epoch=epoch, applied_command=applied)
    return decode_pb2.RunLoopResponse(header=header, **content)


async def beat(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A worker with nothing to do: it answers each heartbeat, and applies nothing."""
    async for _ in requests:
        yield message()


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer, decode_pb2_grpc.DecodeServiceServicer):
    """A decode worker that opens every stream with an empty snapshot, and then plays a script."""

    def __init__(self, name: str = "d", script: Script = beat) -> None:
        self.info = fake_worker(name)
        self.script = script
        self.draining = False
        self.newest_term = 0
        self.hello = worker_pb2.ControllerHello()
        self.opened = asyncio.Event()
        # Cleared, it holds the snapshots back.
        self.may_join = asyncio.Event()
        self.may_join.set()
        self._server = new_server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        decode_pb2_grpc.add_DecodeServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def Describe(self, request: Any, context: Any) -> worker_pb2.DescribeResponse:
        return worker_pb2.DescribeResponse(
            worker=worker_to_wire(self.info), draining=self.draining, newest_term=self.newest_term
        )

    async def RunLoop(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        commands = aiter(requests)
        self.hello = (await anext(commands)).header.hello
        assert self.hello.controller_id
        self.opened.set()
        await self.may_join.wait()
        yield message(epoch=self.info.epoch, snapshot=decode_pb2.DecodeSnapshot())
        try:
            async for response in self.script(commands):
                yield response
        except TandemError as error:
            await abort(context, error)

    async def __aenter__(self) -> FakeWorker:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._server.stop(None)


class Listener:
    """Notes what a link says. `on_reports` is what it does with reports."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.on_reports: Callable[..., None] = lambda info, reports: None

    def admits(self, info: WorkerInfo) -> None: ...

    def joined(self, info: WorkerInfo, address: str) -> None:
        self.events.put_nowait("joined")

    def lost(self, info: WorkerInfo, error: Exception) -> None:
        self.events.put_nowait("lost")

    def left(self, info: WorkerInfo) -> None:
        self.events.put_nowait("left")

    def suspected(self, info: WorkerInfo) -> None:
        self.events.put_nowait("suspected")

    def trusted(self, info: WorkerInfo) -> None:
        self.events.put_nowait("trusted")

    def resumed(self, info: WorkerInfo, snapshot: Any, unapplied: Any) -> None:
        self.events.put_nowait("resumed")

    def heard(self, info: WorkerInfo, header: Any, received_ns: int, reports: Any = ()) -> None:
        if reports:
            self.on_reports(info, reports)

    async def next(self) -> str:
        return await asyncio.wait_for(self.events.get(), 60)


@asynccontextmanager
async def linked(worker: FakeWorker, listener: Listener) -> AsyncIterator[WorkerLink]:
    """A link to a fake worker that has joined."""
    async with worker:
        link = WorkerLink(WorkerRole.DECODE, worker.address, "test", 1, listener)
        link.start()
        try:
            assert await listener.next() == "joined"
            yield link
        finally:
            await link.stop()


# A link and a scripted worker


async def test_a_stream_that_breaks_again_as_soon_as_it_is_back_is_given_up() -> None:
    """The worker cannot take a command, and the link sends it again each time."""

    async def refuse_commands(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.header.number:
                return
            yield message()

    listener = Listener()
    async with linked(FakeWorker(script=refuse_commands), listener) as link:
        link.send(Remove(1))
        assert await listener.next() == "suspected"
        num_resumed = 0
        while (event := await listener.next()) == "resumed":
            num_resumed += 1
            assert num_resumed < 100
        assert num_resumed
        assert event == "lost"
        assert await listener.next() == "joined"


async def test_commands_that_were_not_applied_are_sent_again_under_their_number() -> None:
    """The worker loses the first, with its stream; and then takes all."""
    seen: asyncio.Queue[tuple[int, list[int]]] = asyncio.Queue()
    streams = count(1)

    async def lose_the_first(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        loses, applied = next(streams) == 1, 0
        async for request in requests:
            if number := request.header.number:
                ids = [each.remove.sequence_id for each in request.commands]
                seen.put_nowait((number, ids))
                if loses:
                    return
                applied = number
            yield message(applied)

    listener = Listener()
    worker = FakeWorker(script=lose_the_first)
    async with linked(worker, listener) as link, asyncio.timeout(60):
        assert worker.hello.stream == 1
        link.send(Remove(7))
        link.send(Remove(8))
        assert await seen.get() == (1, [7, 8])
        assert await listener.next() == "suspected"
        assert await listener.next() == "resumed"
        assert await seen.get() == (1, [7, 8])
        assert await listener.next() == "trusted"
        link.send(Remove(9))
        assert await seen.get() == (2, [9])
        assert worker.hello.stream == 2
        assert listener.events.empty()


@pytest.mark.parametrize("pause_s", [1.3, 2.5])
async def test_a_worker_that_is_late_is_not_lost(pause_s: float) -> None:
    """It may be suspected; then its stream is opened again, and it holds what it held."""
    streams = count(1)

    async def speak_late(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        next(streams)
        for _ in range(4):
            await asyncio.sleep(pause_s)
            yield message()

    listener = Listener()
    async with linked(FakeWorker(script=speak_late), listener), asyncio.timeout(60):
        while next(streams) < 4:
            if not listener.events.empty():
                assert listener.events.get_nowait() in {"suspected", "resumed", "trusted"}
            await asyncio.sleep(pause_s)


async def test_a_worker_that_speaks_once_it_is_lost_is_not_heard_before_it_joins_anew() -> None:
    async def chatter(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        while True:
            await asyncio.sleep(0.001)
            yield message()

    class Strict(Listener):
        present = False
        num_strays = 0

        def joined(self, info: WorkerInfo, address: str) -> None:
            self.present = True
            super().joined(info, address)

        def lost(self, info: WorkerInfo, error: Exception) -> None:
            self.present = False
            super().lost(info, error)

        def heard(self, info: WorkerInfo, header: Any, received_ns: int, reports: Any = ()) -> None:
            self.num_strays += not self.present

    listener = Strict()
    async with linked(FakeWorker(script=chatter), listener) as link:
        link._standing.lose(Unavailable("its lease is over"))
        assert await listener.next() == "lost"
        assert await listener.next() == "joined"
    assert listener.num_strays == 0


async def test_a_worker_at_whose_address_nothing_listens_is_lost_at_once() -> None:
    listener = Listener()
    worker = FakeWorker()
    async with linked(worker, listener):
        with capture_logs() as logs:
            await worker.stop()
            assert await listener.next() == "suspected"
            assert await listener.next() == "lost"
    (lost,) = (each for each in logs if each["event"] == "worker lost")
    assert lost["why"] == "nothing listens at its address any more"


async def test_why_no_worker_is_there_is_told_in_the_words_of_the_connection() -> None:
    """And not that nobody answered in time, which is as true of a wrong port as of wrong keys."""
    async with FakeWorker() as gone:
        pass
    link = WorkerLink(WorkerRole.DECODE, gone.address, "test", 1, Listener())
    with capture_logs() as logs:
        link.start()
        async with asyncio.timeout(60):
            while not logs:
                await asyncio.sleep(0.02)
        await link.stop()
    assert logs[0]["event"] == "no worker yet"
    assert logs[0]["address"] == gone.address
    assert "Connection refused" in logs[0]["why"]


async def test_a_worker_with_another_epoch_is_lost_and_joins_as_a_new_one() -> None:
    async def end(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for _ in requests:
            worker.info = replace(worker.info, epoch=worker.info.epoch + 1)
            return
            yield

    listener = Listener()
    worker = FakeWorker(script=end)
    async with linked(worker, listener):
        assert [await listener.next() for _ in range(3)] == ["suspected", "lost", "joined"]


async def test_a_command_that_cannot_be_written_ends_the_link_loudly() -> None:
    listener = Listener()
    async with linked(FakeWorker(), listener) as link:
        with capture_logs() as logs:
            link.send(Remove(-1))
            assert await listener.next() == "lost"
        assert [each["event"] for each in logs] == ["link failed", "worker lost"]
        assert await listener.next() == "joined"


async def test_a_bug_in_the_listener_costs_the_worker_and_not_the_link() -> None:
    async def report(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield message(reports=[decode_pb2.DecodeReport(armed=decode_pb2.Armed(sequence_id=1))])
        async for each in beat(requests):
            yield each

    def fail(info: WorkerInfo, reports: Any) -> None:
        raise KeyError(reports)

    listener = Listener()
    listener.on_reports = fail
    with capture_logs() as logs:
        async with linked(FakeWorker(script=report), listener):
            assert await listener.next() == "lost"
            assert await listener.next() == "joined"
    assert "link failed" in [each["event"] for each in logs]


class HeldWorker(FakeWorker):
    """Another gateway's, for as long as `holder` is set, and for `lease_s` yet if that is told."""

    holder = "other"
    lease_s: float | None = None
    num_refusals = 0

    async def RunLoop(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        if self.holder:
            self.num_refusals += 1
            why = f"controller {self.holder} holds this worker"
            await abort(context, Fenced(why, retry_after_s=self.lease_s))
        async for each in super().RunLoop(requests, context):
            yield each


async def test_a_worker_that_another_gateway_keeps_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not at once: a gateway that died holds its workers until its lease is over."""

    def told() -> list[Any]:
        return [each for each in logs if each["log_level"] == "error"]

    monkeypatch.setattr(standing, "HELD_S", 0.5)
    listener = Listener()
    async with HeldWorker() as worker:
        link = WorkerLink(WorkerRole.DECODE, worker.address, "test", 1, listener)
        with capture_logs() as logs:
            link.start()
            try:
                async with asyncio.timeout(60):
                    while not logs:
                        await asyncio.sleep(0.02)
                    assert told() == []
                    while not told():
                        await asyncio.sleep(0.02)
                await asyncio.sleep(1.0)
                (error,) = told()
                assert error["address"] == worker.address
                assert error["why"] == "controller other holds this worker"
                assert "--standby" in error["do"]
                worker.holder = ""
                assert await listener.next() == "joined"
            finally:
                await link.stop()


class JoinRecorder(Dispatcher):
    """Notes who joined, and whether somebody was refused."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.joins: asyncio.Queue[str] = asyncio.Queue()
        self.refused = asyncio.Event()

    def admits(self, info: WorkerInfo) -> None:
        try:
            super().admits(info)
        except Mismatch:
            self.refused.set()
            raise

    def joined(self, info: WorkerInfo, address: str) -> None:
        super().joined(info, address)
        self.joins.put_nowait(address)


async def test_a_worker_of_another_gateway_is_asked_again_and_not_all_the_time() -> None:
    listener = Listener()
    async with HeldWorker() as worker:
        worker.lease_s = 5.0
        link = WorkerLink(WorkerRole.DECODE, worker.address, "test", 1, listener)
        link.start()
        try:
            await asyncio.sleep(1.5 * REFUSED_S)
            assert worker.num_refusals <= 2
            worker.holder = ""
            assert await listener.next() == "joined"
        finally:
            await link.stop()


async def test_a_worker_that_does_not_fit_is_asked_again_and_not_all_the_time() -> None:
    """Each time takes a connection: of a fleet of another version, most of a gateway's time."""

    class Choosy(Listener):
        num_asked = 0

        def admits(self, info: WorkerInfo) -> None:
            self.num_asked += 1
            if self.num_asked <= 2:
                raise Mismatch("another model")

    listener = Choosy()
    began_s = time.monotonic()
    async with linked(FakeWorker(), listener):
        assert time.monotonic() - began_s >= 2 * REFUSED_S


async def test_a_listener_that_fails_when_it_is_told_of_a_loss_does_not_end_the_link() -> None:
    class Failing(Listener):
        def lost(self, info: WorkerInfo, error: Exception) -> None:
            super().lost(info, error)
            raise KeyError(info.worker_id)

    listener = Failing()
    async with linked(FakeWorker(), listener) as link:
        link.send(Remove(-1))
        assert await listener.next() == "lost"
        assert await listener.next() == "joined"


async def test_of_two_workers_of_one_name_one_joins_until_it_is_gone() -> None:
    """Both open their streams before either has joined."""
    async with FakeWorker() as one, FakeWorker() as two, asyncio.timeout(60):
        workers = {each.address: each for each in (one, two)}
        dispatcher = JoinRecorder(
            Scheduler(queue_policy("fcfs"), Limits()),
            [(WorkerRole.DECODE, address) for address in workers],
            MODEL.fingerprint,
            Timeline(),
        )
        for each in workers.values():
            each.may_join.clear()
        dispatcher.start()
        try:
            for each in workers.values():
                await each.opened.wait()
            for each in workers.values():
                each.may_join.set()
            first = await dispatcher.joins.get()
            await dispatcher.refused.wait()
            assert dispatcher.joins.empty()
            await workers.pop(first).stop()
            (second,) = workers
            assert await dispatcher.joins.get() == second
        finally:
            await dispatcher.stop()


# Queued requests


async def test_what_is_queued_ends_when_a_role_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.dispatcher.ORPHAN_S", 0.05)
    nobody = {WorkerRole.PREFILL: "127.0.0.1:1", WorkerRole.DECODE: "127.0.0.1:2"}
    dispatcher = Dispatcher(
        Scheduler(queue_policy("fcfs"), Limits()),
        list(nobody.items()),
        MODEL.fingerprint,
        Timeline(),
    )
    dispatcher.start()
    try:
        for role, address in nobody.items():
            dispatcher.joined(fake_worker(role.name, role), address)
        request = TokenRequest("r", (1, 2, 3), SamplingParams(max_tokens=5, seed=0))
        stream = dispatcher.submit(request)
        dispatcher.lost(fake_worker("DECODE"), Unavailable("it was lost"))
        with pytest.raises(Unavailable, match="no worker came back"):
            await asyncio.wait_for(upcoming(stream), 60)
        assert not dispatcher._streams
    finally:
        await dispatcher.stop()


# Real workers


async def test_a_gateway_that_stood_still_loses_nobody() -> None:
    async with running_stack(1, 1, devices=["mock:h100x20"]) as stack:
        streams = [stack.submit(f"r{i}", PROMPT, 20) for i in range(4)]
        seen = [await upcoming(stream) for stream in streams]
        time.sleep(2)  # noqa: ASYNC251
        for stream, first in zip(streams, seen, strict=True):
            tokens, _ = await asyncio.wait_for(collect(stream), 60)
            assert tokens == expected_mock_tokens(PROMPT, 20)[len(first) :]


async def test_what_a_silent_worker_held_goes_on_when_it_speaks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no other: it is lost when its lease is over, and what it held waits for it."""
    # The transport tells nobody. Of an option that is given twice, gRPC takes the first.
    options = [("grpc.keepalive_time_ms", 3_600_000), *channels.COMMAND_CHANNEL_OPTIONS]
    monkeypatch.setattr(channels, "COMMAND_CHANNEL_OPTIONS", options)
    async with running_stack(1, 1, devices=["mock:h100x20"]) as stack:
        worker = stack.workers[1]
        stream = stack.submit("r", PROMPT, 60)
        await upcoming(stream)
        worker.signal(signal.SIGSTOP)
        try:
            await stack.until(lambda: bool(stack.dispatcher.num_lost))
            assert len(stack.dispatcher._streams) == 1
        finally:
            worker.signal(signal.SIGCONT)
        _, ended = await asyncio.wait_for(collect(stream), 60)
        assert stream.generation.token_ids == expected_mock_tokens(PROMPT, 60)
        assert ended.served_by.num_losses == 1
        await stack.until_all_free()


async def test_what_a_suspected_worker_held_goes_on_elsewhere_before_its_lease_is_over() -> None:
    """And new requests go elsewhere."""
    async with running_stack(1, 2, devices=["mock:h100x20"]) as stack:
        streams = [stack.submit(f"r{i}", PROMPT, 40) for i in range(6)]
        await asyncio.gather(*map(upcoming, streams))
        worker = stack.workers[1]
        worker.signal(signal.SIGSTOP)
        try:
            (suspect,) = await stack.suspects()
            later = [stack.submit(f"later{i}", PROMPT, 5) for i in range(4)]
            for stream in later:
                tokens, ended = await asyncio.wait_for(collect(stream), 60)
                assert tokens == expected_mock_tokens(PROMPT, 5)
                assert ended.served_by.decode_worker != suspect
            for stream in streams:
                _, ended = await asyncio.wait_for(collect(stream), 60)
                assert stream.generation.token_ids == expected_mock_tokens(PROMPT, 40)
                assert ended.served_by.decode_worker != suspect
            assert stack.dispatcher.suspects == {suspect}
        finally:
            worker.signal(signal.SIGCONT)
        await stack.until_all_free()


class Proxy:
    """Stands between the gateway and a worker, and can reset all connections."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def reset(self) -> None:
        while self._writers:
            self._writers.pop().transport.abort()

    def stop(self) -> None:
        assert self._server
        self._server.close()
        self.reset()

    async def _connected(self, reader: Any, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._worker.port)
        self._writers |= {writer, there_writer}
        await asyncio.gather(_pipe(reader, there_writer), _pipe(there_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


class ReturnCounter(RecordingDispatcher):
    """Counts how often workers came back, by role: over another stream, or as new ones if they
    were lost."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.num_returns = Counter[WorkerRole]()

    def resumed(self, info: WorkerInfo, snapshot: Any, unapplied: Any) -> None:
        super().resumed(info, snapshot, unapplied)
        self.num_returns[info.role] += 1
        self.news.set()

    def joined(self, info: WorkerInfo, address: str) -> None:
        self.num_returns[info.role] += 1
        super().joined(info, address)


@asynccontextmanager
async def proxied_stack() -> AsyncIterator[tuple[Stack, ReturnCounter, dict[WorkerRole, Proxy]]]:
    """A stack whose workers are all behind proxies."""
    async with running_stack(1, 1, devices=["mock:h100x10"]) as stack:
        await stack.dispatcher.stop()
        proxies = {worker.role: Proxy(worker) for worker in stack.workers}
        dispatcher = ReturnCounter(
            Scheduler(queue_policy("fcfs"), Limits()),
            [(role, await proxy.start()) for role, proxy in proxies.items()],
            stack.dispatcher._model_fingerprint,
            Timeline(),
        )
        stack.dispatcher = dispatcher
        dispatcher.start()
        try:
            await stack.until(lambda: dispatcher.ready)
            yield stack, dispatcher, proxies
        finally:
            await dispatcher.stop()
            for proxy in proxies.values():
                proxy.stop()


async def test_streams_that_are_reset_lose_no_token_and_double_none() -> None:
    async with proxied_stack() as (stack, dispatcher, proxies):

        async def reset_during_answers(name: str, role: WorkerRole) -> None:
            lengths = [12 + 2 * i for i in range(8)]
            streams = [stack.submit(f"{name}{i}", PROMPT, num) for i, num in enumerate(lengths)]
            results = [asyncio.create_task(collect(each)) for each in streams]
            if role is WorkerRole.DECODE:
                await stack.until(lambda: all(each.generation.token_ids for each in streams))
            before = dispatcher.num_returns[role]
            proxies[role].reset()
            await stack.until(lambda: dispatcher.num_returns[role] > before)
            for length, task in zip(lengths, results, strict=True):
                tokens, _ = await asyncio.wait_for(task, 60)
                assert tokens == expected_mock_tokens(PROMPT, length)

        # The KV goes on its way meanwhile: its connections are the decode worker's.
        await reset_during_answers("p", WorkerRole.PREFILL)
        for number in range(3):
            await reset_during_answers(f"d{number}.", WorkerRole.DECODE)
        await stack.until_all_free()
