"""A KV transfer whose frames come to harm between the sender and the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, cast

from tandem.core.errors import Unavailable
from tandem.faults.injector import FaultInjector, end_at_once
from tandem.faults.plan import FaultName
from tandem.transfer.codec import checksum_of
from tandem.transfer.push_call import PushKvCall
from tandem.v1 import kv_pb2

HARMS: dict[FaultName, Callable[[kv_pb2.KvFrame], None]] = {
    FaultName.FRAME_WRONG_LAYER: lambda frame: _set(frame, "first_layer", frame.first_layer + 1),
    FaultName.FRAME_WRONG_SHAPE: lambda frame: _set(frame, "num_tokens", frame.num_tokens // 2),
    FaultName.FRAME_WRONG_DTYPE: lambda frame: _set(frame, "dtype", "float64"),
    FaultName.FRAME_WRONG_TRANSFER: lambda frame: _set(
        frame, "transfer_id", frame.transfer_id[::-1]
    ),
    FaultName.FRAME_WRONG_EPOCH: lambda frame: _set(frame, "epoch", frame.epoch + 1),
}
"""What a sender might say wrongly of a frame. Its checksum is right: it is no damage of the way."""


class FaultyPushKvCall:
    """The call that it is given, with faults where a frame is written and the answer is read."""

    def __init__(self, call: PushKvCall, injector: FaultInjector) -> None:
        self._call = call
        self._injector = injector
        self._random = Random(0)
        self._held_back: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def write(self, message: bytes) -> None:
        request = kv_pb2.PushKvRequest.FromString(message)
        held_back, self._held_back = self._held_back, None
        if request.HasField("frame"):
            await self._write_frame(message, request)
        else:
            await self._call.write(message)
        if held_back is not None:
            await self._call.write(held_back)

    async def read(self) -> Any:
        if fault := self._injector.strike(FaultName.ACK_DELAY):
            await asyncio.sleep(fault.seconds)
        return await self._call.read()

    async def _write_frame(self, message: bytes, request: kv_pb2.PushKvRequest) -> None:
        strike = self._injector.strike
        if strike(FaultName.FRAME_KILL):
            end_at_once()
        if strike(FaultName.STREAM_BREAK):
            self._call.cancel()
            raise Unavailable("a fault: the transfer's stream breaks")
        if fault := strike(FaultName.FRAME_DELAY):
            await asyncio.sleep(fault.seconds)
        if strike(FaultName.FRAME_DROP):
            return
        if strike(FaultName.FRAME_REORDER):
            self._held_back = message
            return
        harmed = self._harmed(message, request)
        await self._call.write(harmed)
        if strike(FaultName.FRAME_DUPLICATE):
            await self._call.write(harmed)

    def _harmed(self, message: bytes, request: kv_pb2.PushKvRequest) -> bytes:
        strike = self._injector.strike
        if strike(FaultName.FRAME_CORRUPT):
            # The payload comes last, and is most of the message.
            place = self._random.randrange(len(message) - len(request.frame.payload), len(message))
            flipped = message[place] ^ 1 << self._random.randrange(8)
            return message[:place] + bytes([flipped]) + message[place + 1 :]
        if strike(FaultName.FRAME_TRUNCATE):
            return message[: self._random.randrange(1, len(message))]
        for name, harm in HARMS.items():
            if strike(name):
                harm(request.frame)
                request.frame.checksum = checksum_of(request.frame, request.frame.payload)
                return request.SerializeToString()
        return message


def faulty_calls(injector: FaultInjector | None) -> Callable[[PushKvCall], PushKvCall] | None:
    """What a sender's calls are to be wrapped in; nothing without an injector."""
    if injector is None:
        return None
    return lambda call: cast(PushKvCall, FaultyPushKvCall(call, injector))


def _set(frame: kv_pb2.KvFrame, name: str, value: Any) -> None:
    setattr(frame, name, value)
