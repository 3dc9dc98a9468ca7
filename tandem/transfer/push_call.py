"""A KV transfer's call at the sending end, and all that is known of how gRPC tells its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc

from tandem.core.errors import TandemError, Unavailable
from tandem.v1 import kv_pb2
from tandem.wire.status import call_error, to_tandem_error

INTERNAL_OF_GRPC = "Internal error from Core"
STATUS_WAIT_S = 1.0
# A write on a call that has ended says only that; its status says why. So does a half-close during
# which the connection breaks, by an error of gRPC's core. None of these may be the context of what
# is raised instead: each knows the message that was written, megabytes.
CALL_ENDED = (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError)

# One response is all that comes, but only calls of this kind listen for a status while they write.
PushKvCall = grpc.aio.StreamStreamCall[bytes, kv_pb2.PushKvResponse]


class PushCall:
    """Takes the messages of a transfer, serialised. Raises the `TandemError` that it ended with.

    A write that fails because the receiver has ended the call gives it an INTERNAL status of gRPC's
    own, a moment before or after the receiver's. So every status is looked at as it is given.
    """

    def __init__(self, call: PushKvCall) -> None:
        self._call = call
        self._said: asyncio.Future[grpc.aio.AioRpcError] = asyncio.Future()
        call.add_done_callback(lambda _: self._note())

    async def send(self, message: bytes) -> None:
        """Send a message that is not the last."""
        with suppress(*CALL_ENDED):
            await self._call.write(message)
            return
        raise await self.error()

    async def finish(self, message: bytes) -> kv_pb2.PushKvResponse:
        """Send the last message; what the receiver answers."""
        with suppress(*CALL_ENDED):
            await self._call.write(message)
            await self._call.done_writing()
            response = await self._call.read()
            if isinstance(response, kv_pb2.PushKvResponse):
                return response
        raise await self.error()

    def cancel(self) -> None:
        """End it, if it has not ended."""
        self._call.cancel()

    async def error(self) -> TandemError:
        """Why it ended, as the receiver said it; gRPC's own words are in the error's cause. What
        the receiver has not said itself is a broken way to it, and no fault of what was sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_WAIT_S):
                await asyncio.shield(self._said)
        # Of a call that has failed and not ended no status would ever come.
        self._call.cancel()
        said = self._said.result() if self._said.done() else await call_error(self._call)
        error = to_tandem_error(said, otherwise=Unavailable)
        error.__cause__ = said
        return error

    def _note(self) -> None:
        # Nothing of it has to wait once there is a status: one step takes it to its end.
        reading = call_error(self._call)
        try:
            reading.send(None)
        except StopIteration as end:
            if not self._said.done() and end.value.details() != INTERNAL_OF_GRPC:
                self._said.set_result(end.value)
        finally:
            reading.close()


def words_of(error: TandemError) -> str | None:
    """gRPC's own for why a call ended with an error, if it was a call's end."""
    cause = error.__cause__
    return cause.details() if isinstance(cause, grpc.aio.AioRpcError) else None
