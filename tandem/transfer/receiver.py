"""The receiving end of KV transfers: verifies and stores frames, and tells when all have come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, closing, suppress
from math import isfinite
from time import monotonic_ns
from typing import Protocol

from tandem.core.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    EngineFailed,
    Fenced,
    Mismatch,
    Unavailable,
)
from tandem.core.logprobs import TokenLogprobs
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import KvPeer
from tandem.engine.protocols import KVPool
from tandem.transfer.codec import Frame, decode_request
from tandem.transfer.copy_thread import CopyThread
from tandem.transfer.reservation import Reservation
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import kv_pb2
from tandem.wire.descriptions import layout_from_wire
from tandem.wire.sampling import logprobs_from_wire

# How long a call may take to say who it is. Longer than any controller waits for its sender.
IDENTITY_S = 30.0
# How often it is looked whether a call still has a reservation. A frame is refused at once.
FENCE_S = 5.0


class ReservationBook(Protocol):
    """What the receiver asks of the worker that reserved the blocks. Called under its guard's
    lock."""

    def reservation(self, transfer_id: bytes, epoch: int) -> Reservation:
        """Raises `Fenced` if there is no such reservation; `Released` if it is known that there
        was one."""
        ...

    def reservation_complete(self, reservation: Reservation) -> None:
        """A live reservation is complete. May be called more than once."""
        ...


class KvReceiver:
    """Serves `PushKv` streams, of a model of `vocab_size` tokens. `guard` is that of the book and
    all reservations and blocks in it."""

    def __init__(
        self,
        pool: KVPool,
        book: ReservationBook,
        guard: StateGuard,
        model_fingerprint: str,
        vocab_size: int,
        on_span: Callable[[Span], None],
    ) -> None:
        self._pool = pool
        self._vocab_size = vocab_size
        self._book = book
        self._guard = guard
        self._peer = KvPeer("this worker", model_fingerprint, pool.layout)
        self._on_span = on_span
        # One thread stores frames: more would only contend for the same memory bus and cores.
        self._thread = CopyThread("kv-receive")

    def close(self) -> None:
        self._thread.close(leave=True)

    async def receive(self, requests: AsyncIterable[bytes]) -> kv_pb2.PushKvResponse:
        """Take one stream of serialised `PushKvRequest`s to its end.

        Raises `Cancelled` (the sender gave up), `Fenced` (no such reservation, or no more),
        `Mismatch` (the sender does not fit), `DataLoss` (anything damaged, missing or misplaced),
        `Unavailable` (it could not be stored) or `DeadlineExceeded` (it never said what it is).
        """
        messages = aiter(requests)
        reservation = self._open(await _first(messages))
        async with self._fenced(reservation):
            return await self._take(messages, reservation)

    def _open(self, raw: bytes) -> Reservation:
        message = decode_request(raw)
        if isinstance(message, Frame) or not message.HasField("open"):
            raise DataLoss("a transfer must begin with its identity")
        opening = message.open
        # First: what was meant for a worker that is gone need not fit the one at its address now.
        with self._guard.lock:
            reservation = self._book.reservation(opening.transfer_id, opening.epoch)
        layout = layout_from_wire(opening.layout)
        if misfit := self._peer.misfit(KvPeer(opening.sender, opening.model_fingerprint, layout)):
            raise Mismatch(misfit)
        return reservation

    @asynccontextmanager
    async def _fenced(self, reservation: Reservation) -> AsyncIterator[None]:
        """A context that ends with `Fenced` once a reservation is over, also if no frame comes that
        could be refused."""
        try:
            async with asyncio.timeout(None) as limit:
                fencing = asyncio.create_task(self._fence(reservation, limit))
                try:
                    yield
                finally:
                    fencing.cancel()
        except TimeoutError:
            # It is over, and says how.
            with self._guard.lock:
                reservation.check_open()
            raise

    async def _fence(self, reservation: Reservation, limit: asyncio.Timeout) -> None:
        with suppress(Fenced):
            while True:
                await asyncio.sleep(FENCE_S)
                with self._guard.lock:
                    reservation.check_open()
        limit.reschedule(0)

    async def _take(
        self, messages: AsyncIterator[bytes], reservation: Reservation
    ) -> kv_pb2.PushKvResponse:
        response = kv_pb2.PushKvResponse()
        # The frame that is being stored while the next message comes. Never more than this one: a
        # stream holds two frames, besides what gRPC has of those behind them
        # (`STREAM_WINDOW_BYTES`), and has one access to its blocks.
        storing: asyncio.Future[int] | None = None
        async for raw in messages:
            message = decode_request(raw)
            if storing:
                response.num_bytes += await asyncio.shield(storing)
                storing = None
            if isinstance(message, Frame):
                storing = self._store(reservation, message, response.num_frames)
                response.num_frames += 1
            elif message.HasField("finish"):
                self._finish(reservation, message.finish, response.num_frames)
                return response
            else:
                raise DataLoss("a transfer was opened twice")
        if storing:
            await asyncio.shield(storing)
        raise Cancelled("the sender ended the transfer before its finish")

    def _store(
        self, reservation: Reservation, frame: Frame, expected_number: int
    ) -> asyncio.Future[int]:
        """Check where a frame belongs, and start to verify and store it; how many bytes it has.
        What is wrong with its contents is known when the next message has come."""
        if frame.header.number != expected_number:
            raise DataLoss(f"frame {frame.header.number} came as number {expected_number}")
        reservation.check(frame.header)
        with self._guard.lock:
            reservation.begin_write()
        # The access ends when the copy has ended, on the receiver's thread, not when the stream's
        # task is cancelled. Whether anybody still asks how it ended or not, it counts as asked.
        storing = self._thread.run(self._verify_and_write(reservation, frame))
        storing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return storing

    def _verify_and_write(
        self, reservation: Reservation, frame: Frame
    ) -> Generator[None, None, int]:
        start_ns = monotonic_ns()
        header = frame.header
        stored = False
        try:
            items = frame.verified_items(self._pool.layout)
            writing = self._pool.begin_write(
                header.plane,
                header.layers,
                reservation.block_ids(header),
                header.num_tokens,
                items,
            )
            with closing(writing):
                if not writing.is_stored:
                    yield
                # Only behind this may a step be launched that reads it.
                writing.end()
            stored = True
        except EngineFailed as error:
            # To the sender, whose engine is well, the worker at the other end is not there.
            raise Unavailable(error.message) from error
        finally:
            with self._guard.change(is_news=False):
                if stored:
                    reservation.cover(header)
                reservation.end_write()
        self._on_span(
            Span(
                SpanKind.FRAME_RECEIVED,
                start_ns,
                monotonic_ns(),
                number=header.number,
                sequence_id=reservation.sequence_id,
                num_tokens=header.num_tokens,
                num_bytes=len(items),
            )
        )
        return len(items)

    def _finish(
        self, reservation: Reservation, finish: kv_pb2.TransferFinish, num_frames: int
    ) -> None:
        if finish.num_frames != num_frames:
            raise DataLoss(f"{finish.num_frames} frames were sent, {num_frames} came")
        if not finish.HasField("first_token_id"):
            raise DataLoss("a transfer was finished without the first token")
        if finish.first_token_id >= self._vocab_size:
            # The next step would be refused for it, with all who are in it.
            raise DataLoss(f"the first token is {finish.first_token_id}, of {self._vocab_size}")
        logprobs = logprobs_from_wire(finish.first_token_logprobs)
        self._check_logprobs(logprobs, reservation.num_logprobs)
        with self._guard.lock:
            reservation.check_open()
            reservation.check_covered()
            reservation.finish(finish.first_token_id, logprobs)
            # Until here an error is the sender's.
            with self._guard.change():
                self._book.reservation_complete(reservation)

    def _check_logprobs(self, logprobs: TokenLogprobs | None, num_asked: int | None) -> None:
        """Raise `DataLoss` unless they are what was asked for: they are reported as they came."""
        if logprobs is None or num_asked is None:
            if logprobs is not None or num_asked is not None:
                raise DataLoss("log-probabilities came that nobody asked for, or none that were")
            return
        if len(logprobs.top_ids) > num_asked:
            raise DataLoss(f"{len(logprobs.top_ids)} log-probabilities came, not {num_asked}")
        if any(token_id >= self._vocab_size for token_id in logprobs.top_ids):
            raise DataLoss("a log-probability is of no token of the model")
        if not all(map(isfinite, (logprobs.logprob, *logprobs.top_logprobs))):
            raise DataLoss("a log-probability is no number")


async def _first(messages: AsyncIterator[bytes]) -> bytes:
    """A stream's first message, which anybody may open, and nobody keep open without a word."""
    try:
        async with asyncio.timeout(IDENTITY_S):
            return await anext(messages)
    except TimeoutError:
        raise DeadlineExceeded("the transfer's identity did not come in time") from None
    except StopAsyncIteration:
        raise Cancelled("the sender ended the transfer before its identity") from None
