"""The sending end of KV transfers: pushes each layer's blocks while the next layers compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from time import monotonic_ns
from traceback import clear_frames
from typing import Any

import structlog

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    EngineFailed,
    Fenced,
    TandemError,
    Unavailable,
)
from tandem.core.kv import Plane
from tandem.core.logprobs import TokenLogprobs
from tandem.core.reports import Span, SpanKind
from tandem.engine.protocols import KVPool, KVRead
from tandem.transfer.codec import FrameHeader, encode_frame
from tandem.transfer.copy_thread import CopyThread
from tandem.transfer.layer_grouper import (
    MAX_FRAME_BYTES,
    MIN_FRAME_BYTES,
    LayerGrouper,
    Region,
)
from tandem.transfer.links import Links, WrapCall
from tandem.transfer.push_call import PushCall, words_of
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import kv_pb2
from tandem.wire.descriptions import layout_to_wire
from tandem.wire.sampling import logprobs_to_wire
from tandem.wire.tls import ChannelTls

log = structlog.get_logger(__name__)

# What a transfer's failure is told as. Whatever else it was is no fault of its sequence, either,
# and is told as `Unavailable`: between two other workers it may not happen.
TRANSFER_FAILURES = (Unavailable, Fenced, DataLoss, EngineFailed)


@dataclass(frozen=True, slots=True)
class EncodedRegion:
    """A region's frames, ready to be written, and when their turn to be read came."""

    headers: Sequence[FrameHeader]
    start_ns: int
    frames: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Finish:
    """All regions have been named; `first_token_id` is the token that follows the prompt."""

    first_token_id: int
    logprobs: TokenLogprobs | None
    compute_end_ns: int


class OutgoingTransfer:
    """One sequence's KV on its way to its reservation.

    Fed from the event loop, in order: `layer_done` as layers are computed, then `finish`. Holds no
    KV of its own: what waits to be sent waits in the pool.
    """

    def __init__(
        self, sender: KvSender, sequence_id: int, destination: Destination, blocks: SequenceBlocks
    ) -> None:
        self.sequence_id = sequence_id
        self.destination = destination
        self._sender = sender
        self._blocks = blocks
        self._grouper = LayerGrouper(
            sender.pool.layout,
            destination.num_cached_tokens,
            sender.min_frame_bytes,
            sender.max_frame_bytes,
        )
        self._due: asyncio.Queue[Region | Finish] = asyncio.Queue()
        self._num_frames = 0
        self._num_bytes = 0
        self._start_ns = 0

    def layer_done(self, layer: int, end: int) -> None:
        """The KV of one layer of all tokens before `end` is in the pool."""
        for region in self._grouper.layer_done(layer, end):
            self._start_ns = self._start_ns or monotonic_ns()
            self._due.put_nowait(region)

    def finish(
        self, first_token_id: int, logprobs: TokenLogprobs | None, compute_end_ns: int
    ) -> None:
        self._start_ns = self._start_ns or monotonic_ns()
        self._due.put_nowait(Finish(first_token_id, logprobs, compute_end_ns))

    async def run(self) -> int:
        """Send until all is acknowledged; the bytes sent. Raises the `TandemError` of its end."""
        with self._sender.links.to(self.destination.address) as link:
            await link.ready()
            call = link.push_kv()
            try:
                return await self._send(call, link.window)
            finally:
                call.cancel()

    async def _send(self, call: PushCall, window: asyncio.Semaphore) -> int:
        await call.send(self._opening())
        finish = await self._send_regions(call, window)
        await call.finish(self._closing(finish))
        self._report(
            SpanKind.TRANSFER,
            self._start_ns,
            self._num_bytes,
            number=self._num_frames,
            compute_end_ns=finish.compute_end_ns,
        )
        return self._num_bytes

    async def _send_regions(self, call: PushCall, window: asyncio.Semaphore) -> Finish:
        """Send all regions that come. The next is encoded while one is written, if the window has
        room for both."""
        ahead = asyncio.create_task(self._encode_next(window))
        try:
            while isinstance(encoded := await ahead, EncodedRegion):
                try:
                    ahead = asyncio.create_task(self._encode_next(window))
                    await self._write(call, encoded)
                finally:
                    # Its place is for others' while this transfer waits for its next layer.
                    del encoded
                    window.release()
            return encoded
        finally:
            if not ahead.cancel() and _has_region(ahead):
                # Nobody writes it any more.
                window.release()

    async def _encode_next(self, window: asyncio.Semaphore) -> EncodedRegion | Finish:
        """What is due next. Who gets a region has a place in the window with it."""
        due = await self._due.get()
        if isinstance(due, Finish):
            return due
        await window.acquire()
        try:
            headers = [
                self._header(due, plane, number)
                for number, plane in enumerate(Plane, self._num_frames)
            ]
            self._num_frames += len(headers)
            return EncodedRegion(headers, *await self._sender.encode(self._blocks, headers))
        except BaseException:
            window.release()
            raise

    async def _write(self, call: PushCall, encoded: EncodedRegion) -> None:
        start_ns = encoded.start_ns
        for header, frame in zip(encoded.headers, encoded.frames, strict=True):
            await call.send(frame)
            num_bytes = header.num_bytes(self._sender.pool.layout)
            self._num_bytes += num_bytes
            self._report(
                SpanKind.FRAME_SENT,
                start_ns,
                num_bytes,
                number=header.number,
                num_tokens=header.num_tokens,
            )
            start_ns = monotonic_ns()

    def _header(self, region: Region, plane: Plane, number: int) -> FrameHeader:
        return FrameHeader(
            transfer_id=self.destination.transfer_id,
            epoch=self.destination.epoch,
            number=number,
            plane=plane,
            layers=region.layers,
            first_token=region.first_token,
            num_tokens=region.end - region.first_token,
        )

    def _report(self, kind: SpanKind, start_ns: int, num_bytes: int, **details: Any) -> None:
        self._sender.on_span(
            Span(
                kind,
                start_ns,
                monotonic_ns(),
                sequence_id=self.sequence_id,
                num_bytes=num_bytes,
                **details,
            )
        )

    def _opening(self) -> bytes:
        return kv_pb2.PushKvRequest(
            open=kv_pb2.TransferOpen(
                transfer_id=self.destination.transfer_id,
                epoch=self.destination.epoch,
                model_fingerprint=self._sender.model_fingerprint,
                layout=layout_to_wire(self._sender.pool.layout),
                sender=self._sender.name,
            )
        ).SerializeToString()

    def _closing(self, finish: Finish) -> bytes:
        return kv_pb2.PushKvRequest(
            finish=kv_pb2.TransferFinish(
                num_frames=self._num_frames,
                first_token_id=finish.first_token_id,
                first_token_logprobs=logprobs_to_wire(finish.logprobs),
            )
        ).SerializeToString()


class KvSender:
    """All outgoing transfers of a worker: their tasks, their links, one thread to encode.

    `guard` is that of the blocks, and of what `on_done(sequence_id, num_bytes)` and
    `on_failed(sequence_id, error)` change: they are called on the event loop, exactly one of them
    for each transfer that was not aborted. The error is one of `TRANSFER_FAILURES`.
    """

    def __init__(
        self,
        *,
        name: str,
        pool: KVPool,
        model_fingerprint: str,
        guard: StateGuard,
        on_done: Callable[[int, int], None],
        on_failed: Callable[[int, TandemError], None],
        on_span: Callable[[Span], None],
        min_frame_bytes: int = MIN_FRAME_BYTES,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        tls: ChannelTls | None = None,
        wrap_call: WrapCall | None = None,
    ) -> None:
        self.name = name
        self.pool = pool
        self.model_fingerprint = model_fingerprint
        self.on_span = on_span
        self.links = Links(tls=tls, wrap_call=wrap_call)
        self.min_frame_bytes = min_frame_bytes
        self.max_frame_bytes = max_frame_bytes
        self._guard = guard
        self._on_done = on_done
        self._on_failed = on_failed
        # With what runs each. (One that knew its own would keep its frames when that is cancelled.)
        self._transfers: dict[int, tuple[OutgoingTransfer, asyncio.Task[None]]] = {}
        self._thread = CopyThread("kv-send")

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        """Open a sequence's transfer."""
        transfer = OutgoingTransfer(self, sequence_id, destination, blocks)
        self._transfers[sequence_id] = transfer, asyncio.create_task(self._run(transfer))

    def get(self, sequence_id: int) -> OutgoingTransfer | None:
        """The sequence's transfer; None if it is over, or never was."""
        found = self._transfers.get(sequence_id)
        return found[0] if found else None

    def abort(self, sequence_id: int) -> None:
        """End a transfer, if it is under way, without a word to anybody but the receiver."""
        if found := self._transfers.pop(sequence_id, None):
            found[1].cancel()

    async def close(self) -> None:
        tasks = [task for _, task in self._transfers.values()]
        for sequence_id in list(self._transfers):
            self.abort(sequence_id)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.links.close()
        self._thread.close()

    async def encode(
        self, blocks: SequenceBlocks, headers: Sequence[FrameHeader]
    ) -> tuple[int, list[bytes]]:
        """Read frames' items from the pool and serialise them, off the event loop: all of them on
        one way to the sender's thread and back, which costs as much as a small frame. When their
        turn came, in monotonic ns, and the frames."""
        with self._guard.lock:
            if not blocks.begin_access():
                raise Cancelled("the sequence was dropped while its KV was sent")
        encoding = self._thread.run(self._encode(blocks, headers))
        # The access must end when the read has ended, not when this task is cancelled.
        return await asyncio.shield(encoding)

    def _encode(
        self, blocks: SequenceBlocks, headers: Sequence[FrameHeader]
    ) -> Generator[None, None, tuple[int, list[bytes]]]:
        try:
            with ExitStack() as begun:
                reads = [
                    begun.enter_context(closing(self._begin_read(blocks, header)))
                    for header in headers
                ]
                yield
                start_ns = monotonic_ns()
                return start_ns, [
                    encode_frame(header, self.pool.layout, read.end)
                    for header, read in zip(headers, reads, strict=True)
                ]
        finally:
            with self._guard.change(is_news=False):
                blocks.end_access()

    def _begin_read(self, blocks: SequenceBlocks, header: FrameHeader) -> KVRead:
        layout = self.pool.layout
        first_block = header.first_token // layout.block_size
        ids = blocks.ids[first_block : layout.blocks_for(header.end)]
        return self.pool.begin_read(header.plane, header.layers, ids, header.num_tokens)

    async def _run(self, transfer: OutgoingTransfer) -> None:
        outcome: int | TandemError
        try:
            outcome = await transfer.run()
        except TandemError as error:
            _log_failure(transfer, error)
            # It and those that it came by know each other: what these hold of KV, megabytes, would
            # stay until garbage is collected.
            clear_frames(error.__traceback__)
            outcome = error if isinstance(error, TRANSFER_FAILURES) else Unavailable(error.message)
        except Exception as error:
            # Without a word its sequence would stay for ever.
            log.exception("transfer failed", sequence=transfer.sequence_id)
            outcome = Unavailable(f"the transfer failed: {type(error).__name__}")
        self._end(transfer.sequence_id, outcome)

    def _end(self, sequence_id: int, outcome: int | TandemError) -> None:
        self._transfers.pop(sequence_id, None)
        with self._guard.change():
            if isinstance(outcome, TandemError):
                self._on_failed(sequence_id, outcome)
            else:
                self._on_done(sequence_id, outcome)


def _has_region(ended: asyncio.Task[EncodedRegion | Finish]) -> bool:
    return (
        not ended.cancelled()
        and ended.exception() is None
        and isinstance(ended.result(), EncodedRegion)
    )


def _log_failure(transfer: OutgoingTransfer, error: TandemError) -> None:
    """Which edge is broken, and gRPC's words for it: others are told neither."""
    # A sequence that was dropped in the meantime is nobody's trouble. Who fences knows whether it
    # was, and warns if not.
    tell = log.debug if isinstance(error, Cancelled | Fenced) else log.warning
    tell(
        "transfer failed",
        sequence=transfer.sequence_id,
        destination=transfer.destination.address,
        reason=error.reason,
        why=error.message,
        details=words_of(error),
    )
