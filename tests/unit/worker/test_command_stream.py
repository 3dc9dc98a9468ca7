"""Command streams over real gRPC, with a state that only records."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NoReturn

import grpc
import pytest
from fake_state import INFO, RecordedState, armed, running_worker

from decode_service import service
from decode_service.service import DecodeServicer
from tandem.core.commands import Admit, Remove, Unreadable
from tandem.core.errors import Fenced, Mismatch
from tandem.core.prefix import digest
from tandem.core.reports import Span, SpanKind
from tandem.v1 import decode_pb2, decode_pb2_grpc, worker_pb2
from tandem.wire.channels import new_server, open_channel
from tandem.wire.commands import decode_command_to_wire
from tandem.wire.reports import (
    decode_report_from_wire,
    decode_report_to_wire,
    span_to_wire,
)
from tandem.wire.status import to_tandem_error
from tandem.worker import command_stream
from tandem.worker.worker import Worker

LEASE_MS = 60_000


@asynccontextmanager
async def serving(
    state: type[RecordedState] = RecordedState,
) -> AsyncIterator[tuple[Worker, str]]:
    async with running_worker(state=state) as worker:
        server = new_server()
        decode_pb2_grpc.add_DecodeServiceServicer_to_server(DecodeServicer(worker), server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield worker, address
        finally:
            await server.stop(0)


class Stream:
    """A controller's end."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = decode_pb2_grpc.DecodeServiceStub(channel).RunLoop()

    async def hello(
        self, name: str = "a", term: int = 1, lease_ms: int = LEASE_MS, stream: int = 0
    ) -> decode_pb2.RunLoopResponse:
        hello = worker_pb2.ControllerHello(
            controller_id=name, term=term, lease_ms=lease_ms, stream=stream
        )
        await self.write(hello=hello)
        return await self.read()

    async def send(self, number: int, *commands: Any) -> None:
        wire = [decode_command_to_wire(each) for each in commands]
        await self.write(wire, number=number)

    async def write(self, commands: Any = (), **header: Any) -> None:
        header = worker_pb2.ControllerHeader(**header)
        await self.call.write(decode_pb2.RunLoopRequest(header=header, commands=commands))

    async def read(self) -> decode_pb2.RunLoopResponse:
        """Raises the `TandemError` with which the stream ends."""
        try:
            response = await asyncio.wait_for(self.call.read(), 10)
            if response is not grpc.aio.EOF:
                return response
            code = await self.call.code()
            metadata = await self.call.trailing_metadata()
            details = await self.call.details()
        except grpc.aio.AioRpcError as error:
            raise to_tandem_error(error) from None
        if code is grpc.StatusCode.OK:
            raise EOFError
        raise to_tandem_error(grpc.aio.AioRpcError(code, metadata, metadata, details=details))

    async def until_ended(self) -> NoReturn:
        """Raises what it ends with."""
        while True:
            await self.read()

    async def reports(self, count: int) -> list[Any]:
        """The next `count` reports, over however many messages."""
        reports: list[Any] = []
        while len(reports) < count:
            reports += map(decode_report_from_wire, (await self.read()).reports)
        return reports

    async def until_applied(self, number: int) -> None:
        while (await self.read()).header.applied_command < number:
            pass


@asynccontextmanager
async def stream_to(address: str) -> AsyncIterator[Stream]:
    async with open_channel(address) as channel:
        yield Stream(channel)


def applied(worker: Worker) -> list[Any]:
    assert isinstance(worker.state, RecordedState)
    return list(worker.state.applied)


# Opening


async def test_a_stream_opens_with_a_snapshot() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        worker.add_span(Span(SpanKind.STEP, 1, 2, number=3))
        opening = await stream.hello()
        assert opening.HasField("snapshot")
        assert not opening.reports
        assert opening.header.worker_epoch == INFO.epoch
        assert opening.header.applied_command == 0
        assert opening.header.num_free_blocks == 8
        assert list(opening.header.spans) == [span_to_wire(Span(SpanKind.STEP, 1, 2, number=3))]


class Snapshot:
    """One on the wire, of whatever size."""


async def test_a_snapshot_goes_once_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be megabytes, and its stream lasts as long as the gateway."""
    made: list[weakref.ref[Snapshot]] = []

    def made_one(_: object) -> Snapshot:
        snapshot = Snapshot()
        made.append(weakref.ref(snapshot))
        return snapshot

    def response(snapshot: Snapshot | None = None, **content: Any) -> decode_pb2.RunLoopResponse:
        return decode_pb2.RunLoopResponse(**content)

    dialect = replace(service.DIALECT, response=response, snapshot_to_wire=made_one)
    monkeypatch.setattr(service, "DIALECT", dialect)
    async with serving() as (_, address), stream_to(address) as stream:
        await stream.hello()
        assert [each() for each in made] == [None]


async def test_a_stream_must_begin_with_a_hello() -> None:
    async with serving() as (_, address), stream_to(address) as stream:
        await stream.send(1, Admit(1))
        with pytest.raises(Mismatch, match="hello"):
            await stream.read()


async def test_a_stream_on_which_nobody_says_hello_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_stream, "HELLO_S", 0.1)
    async with serving() as (_, address), stream_to(address) as stream:
        await stream.call.wait_for_connection()
        with pytest.raises(Mismatch, match="hello"):
            await stream.read()


async def test_another_controller_is_refused_while_the_lease_lives() -> None:
    async with serving() as (worker, address), stream_to(address) as one, stream_to(address) as two:
        await one.hello("a")
        with pytest.raises(Fenced, match="a holds") as refusal:
            await two.hello("b", term=9)
        assert 0 < refusal.value.retry_after_s <= LEASE_MS / 1000
        await one.send(1, Admit(1))
        assert await one.reports(1) == [armed(1)]
        assert worker.lease.holder.controller_id == "a"


# Commands and reports


async def test_commands_are_applied_in_order_and_reported() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        await stream.send(1, Admit(1), Admit(2))
        await stream.send(2, Admit(3), Remove(1))
        assert await stream.reports(3) == [armed(1), armed(2), armed(3)]
        assert applied(worker) == [Admit(1), Admit(2), Admit(3), Remove(1)]


async def test_what_a_message_says_is_applied_shows_in_it_or_before() -> None:
    async with serving() as (_, address), stream_to(address) as stream:
        await stream.hello()
        seen: list[Any] = []
        for number in range(1, 20):
            await stream.send(number, Admit(number))
        last = 0
        while last < 19:
            response = await stream.read()
            seen += map(decode_report_from_wire, response.reports)
            assert response.header.applied_command >= last
            last = response.header.applied_command
            assert seen[:last] == [armed(number) for number in range(1, last + 1)]


async def test_what_was_not_told_for_a_while_comes_in_messages_that_can_be_carried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None says that a command is applied before the reports that this led to."""
    size = decode_report_to_wire(armed(1)).ByteSize()
    monkeypatch.setattr(command_stream, "MAX_BYTES", 3 * size)
    async with serving() as (_, address), stream_to(address) as stream:
        await stream.hello()
        await stream.send(1, *(Admit(1) for _ in range(8)))
        responses = []
        while sum(len(each.reports) for each in responses) < 8:
            responses.append(await stream.read())
        telling = [each for each in responses if each.reports]
        assert [len(each.reports) for each in telling] == [3, 3, 2]
        assert [each.header.report_number for each in telling] == [3, 6, 8]
        assert [each.header.applied_command for each in telling] == [0, 0, 1]


async def test_a_repeated_number_is_ignored() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        await stream.send(1, Admit(1))
        await stream.send(1, Admit(1))
        await stream.send(2, Admit(2))
        await stream.send(1, Admit(9))
        await stream.send(3, Admit(3))
        await stream.until_applied(3)
        assert applied(worker) == [Admit(1), Admit(2), Admit(3)]


async def test_a_worker_that_stood_still_reads_before_it_ends_the_lease() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello(lease_ms=300)
        await stream.send(1, Admit(1))
        await stream.until_applied(1)
        heartbeat = asyncio.create_task(stream.write(sent_ns=1))
        time.sleep(0.5)  # noqa: ASYNC251
        await heartbeat
        while (await stream.read()).header.echoed_ns != 1:
            pass
        assert worker.lease.holder is not None


async def test_a_gap_ends_the_stream_and_applies_nothing() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        await stream.send(1, Admit(1))
        await stream.send(3, Admit(3))
        with pytest.raises(Mismatch, match="3 came after commands 1"):
            await stream.until_ended()
        assert applied(worker) == [Admit(1)]
        assert worker.lease.holder is not None


async def test_reports_are_numbered_and_acknowledged() -> None:
    async with serving() as (worker, address):
        async with stream_to(address) as stream:
            assert (await stream.hello()).header.report_number == 0
            await stream.send(1, Admit(1), Admit(2))
            while not (response := await stream.read()).reports:
                pass
            assert response.header.report_number == 2
            # A number that was never given is ignored.
            await stream.write(taken_report=3)
            await stream.write(taken_report=1)
            await worker.state.until(lambda: bool(worker.state.acknowledged))
        async with stream_to(address) as stream:
            hello = worker_pb2.ControllerHello(controller_id="a", term=1, lease_ms=LEASE_MS)
            await stream.write(hello=hello, taken_report=2)
            assert (await stream.read()).header.report_number == 2
            assert worker.state.acknowledged == [1, 2]


async def test_an_unknown_command_ends_the_stream() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        await stream.write([decode_pb2.DecodeCommand()], number=1)
        with pytest.raises(Mismatch):
            await stream.until_ended()
        assert worker.applied_command == 0
        assert not worker.guard.crash.done()


async def test_a_sequence_of_which_something_is_not_known_costs_no_other() -> None:
    later = decode_pb2.Reserve(sequence_id=2)
    later.sampling.grammar.kind = 99  # type: ignore[assignment]
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        known = decode_command_to_wire(Admit(1))
        await stream.write([decode_pb2.DecodeCommand(reserve=later), known], number=1)
        await stream.send(2, Admit(3))
        assert await stream.reports(2) == [armed(1), armed(3)]
        unreadable = Unreadable(2, "GrammarKind 99 is not known here")
        assert applied(worker) == [unreadable, Admit(1), Admit(3)]


async def test_an_idle_worker_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_stream, "HEARTBEAT_S", 0.01)
    async with serving() as (_, address), stream_to(address) as stream:
        await stream.hello()
        await stream.write(sent_ns=1234)
        while (heartbeat := await stream.read()).header.echoed_ns != 1234:
            pass
        assert not heartbeat.reports
        assert not heartbeat.HasField("snapshot")
        assert 0 < heartbeat.header.received_ns <= heartbeat.header.sent_ns


async def test_unused_slots_are_counted_with_heartbeats_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes a look at every sequence, and every step has a message."""
    monkeypatch.setattr(command_stream, "HEARTBEAT_S", 3600.0)
    async with serving() as (worker, address), stream_to(address) as stream:
        worker.state.num_unused_slots = 5
        assert (await stream.hello()).header.num_unused_slots == 5
        worker.state.num_unused_slots = 6
        await stream.send(1, Admit(1))
        while not (response := await stream.read()).reports:
            pass
        assert response.header.num_unused_slots == 5
    monkeypatch.setattr(command_stream, "HEARTBEAT_S", 0.01)
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        worker.state.num_unused_slots = 7
        while (await stream.read()).header.num_unused_slots != 7:
            pass


# Ends


async def test_a_goodbye_frees_at_once_and_ends_the_stream() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        await stream.send(1, Admit(1))
        await stream.write(goodbye=True)
        with pytest.raises(EOFError):
            await stream.until_ended()
        assert applied(worker) == []
        assert worker.lease.holder is None


async def test_a_goodbye_comes_after_its_commands() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello()
        await stream.write([decode_command_to_wire(Admit(1))], number=1, goodbye=True)
        with pytest.raises(EOFError):
            await stream.until_ended()
        assert applied(worker) == []
        async with stream_to(address) as other:
            assert (await other.hello("b", term=2)).HasField("snapshot")


@pytest.mark.parametrize("how", ["cancelled", "half closed", "channel closed"])
async def test_a_broken_stream_leaves_all_for_the_controller_to_come_back(how: str) -> None:
    async with serving() as (worker, address):
        async with stream_to(address) as stream:
            await stream.hello()
            await stream.send(1, Admit(1))
            await stream.reports(1)
            if how == "cancelled":
                stream.call.cancel()
            elif how == "half closed":
                await stream.call.done_writing()
                with pytest.raises(EOFError):
                    await stream.until_ended()
        assert applied(worker) == [Admit(1)]
        async with stream_to(address) as stream:
            assert (await stream.hello()).header.applied_command == 1
            await stream.send(2, Admit(2))
            assert await stream.reports(1) == [armed(2)]
            assert applied(worker) == [Admit(1), Admit(2)]


async def test_a_newer_stream_takes_the_place_of_the_older() -> None:
    async with serving() as (worker, address), stream_to(address) as old, stream_to(address) as new:
        await old.hello()
        await old.send(1, Admit(1))
        await old.reports(1)
        assert (await new.hello()).header.applied_command == 1
        with pytest.raises(Fenced, match="newer stream"):
            await old.until_ended()
        await new.send(2, Admit(2))
        assert await new.reports(1) == [armed(2)]
        assert applied(worker) == [Admit(1), Admit(2)]


async def test_who_is_followed_before_its_lease_was_seen_to_be_over_is_told_by_whom() -> None:
    async with serving() as (worker, address), stream_to(address) as old, stream_to(address) as new:
        await old.hello("a")
        worker.lease.expires_at = 0.0
        await new.hello("b", term=2)
        with pytest.raises(Fenced, match="controller b has opened a newer stream"):
            await old.until_ended()


async def test_an_older_streams_hello_that_comes_late_is_refused() -> None:
    async with serving() as (worker, address), stream_to(address) as old, stream_to(address) as new:
        await new.hello(stream=2)
        with pytest.raises(Fenced, match="stream 1 of this term is older"):
            await old.hello(stream=1)
        await new.send(1, Admit(1))
        assert await new.reports(1) == [armed(1)]
        assert applied(worker) == [Admit(1)]


class HashingState(RecordedState):
    """Hashes for as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.is_done = False

    def hashing(self, command: object) -> Iterator[None]:
        self.began.set()
        while not self.is_done:
            yield


async def test_what_is_being_hashed_when_a_newer_stream_comes_is_not_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it is done in that very moment."""
    supersede = command_stream._Stream.supersede

    def and_end_hashing(stream: command_stream._Stream[Any], controller_id: str) -> None:
        supersede(stream, controller_id)
        worker.state.is_done = True

    monkeypatch.setattr(command_stream._Stream, "supersede", and_end_hashing)
    async with (
        serving(HashingState) as (worker, address),
        stream_to(address) as old,
        stream_to(address) as new,
    ):
        await old.hello()
        await old.send(1, Admit(1))
        await worker.state.began.wait()
        assert (await new.hello()).header.applied_command == 0
        with pytest.raises(Fenced, match="newer stream"):
            await old.until_ended()
        await new.send(1, Admit(7))
        assert await new.reports(1) == [armed(7)]
        assert applied(worker) == [Admit(7)]


async def test_a_newer_term_of_the_same_controller_starts_afresh() -> None:
    async with serving() as (worker, address), stream_to(address) as old, stream_to(address) as new:
        await old.hello()
        await old.send(1, Admit(1))
        await old.reports(1)
        assert (await new.hello(term=2)).header.applied_command == 0
        assert applied(worker) == []
        await new.send(1, Admit(5))
        assert await new.reports(1) == [armed(5)]


async def test_an_expired_lease_ends_the_stream_and_frees() -> None:
    async with serving() as (worker, address), stream_to(address) as stream:
        await stream.hello(lease_ms=100)
        await stream.send(1, Admit(1))
        with pytest.raises(Fenced, match="expired"):
            await stream.until_ended()
        assert applied(worker) == []
        with pytest.raises(Fenced):
            async with stream_to(address) as late:
                await late.hello()
        async with stream_to(address) as other:
            assert (await other.hello("b", term=2)).HasField("snapshot")


async def test_the_cache_is_told_whole_at_first_and_then_what_changes() -> None:
    async with serving() as (worker, address), open_channel(address) as channel:
        cache = worker.state.prefix_cache
        cache.add([3], [b"before 1"])
        stream = Stream(channel)
        first = (await stream.hello()).header.prefix_cache
        assert (first.whole, list(first.added)) == (True, [digest(b"before 1")])
        with worker.guard.lock:
            cache.add([4], [b"a new 1 "])
            cache.rest(3)
            cache.evict()
        await stream.send(1, Admit(7))
        header = (await stream.read()).header
        while not header.HasField("prefix_cache"):
            header = (await stream.read()).header
        change = header.prefix_cache
        assert not change.whole
        assert (list(change.added), list(change.removed)) == (
            [digest(b"a new 1 ")],
            [digest(b"before 1")],
        )
        await stream.send(2, Admit(8))
        assert not (await stream.read()).header.HasField("prefix_cache")
