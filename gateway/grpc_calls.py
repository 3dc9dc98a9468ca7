"""How many calls there may be by gRPC at a time, in all and of each tenant."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from gateway.access import Access
from gateway.grpc_access import Continuation, Handler, refusal_handler, text_metadata
from gateway.places import Places
from gateway.refusals import Refusals
from tandem.core.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted, TandemError
from tandem.wire.status import abort

# Of all clients.
MAX_CALLS = 2**14
# What the server itself takes beyond that, before it refuses without a word to us: calls that are
# refused here.
SPARE_CALLS = 2**10
RETRY_AFTER_S = 1.0
# How long a call may be without its message, and one of a stranger's.
ASK_S = 60.0
STRANGERS_ASK_S = 10.0
# By when gRPC has told that the client of a call that has ended without a message has left.
LEAVING_S = 0.1

KINDS: dict[str, Callable[..., Handler]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Method: TypeAlias = "Callable[[Any, Context], Any]"
Block: TypeAlias = "Callable[[Context], AbstractContextManager[None]]"


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses the calls that are too many at a time, in all or of a tenant, and counts them. A call
    is one from its head until all of its answer is written, and has to bring its message in
    time."""

    def __init__(self, access: Access, refusals: Refusals, max_calls: int = MAX_CALLS) -> None:
        self._access = access
        self._refusals = refusals
        self._places = Places(max_calls, access.tenants)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        tenant = self._tenant_of(handler_call_details)
        if not (self._places.has_room and self._places.may_have_more(tenant)):
            error = ResourceExhausted("too many calls at a time", retry_after_s=RETRY_AFTER_S)
            self._refusals.add(error.reason, error.message, tenant)
            return refusal_handler(error)
        handler = await continuation(handler_call_details)
        ask_s = ASK_S if tenant else STRANGERS_ASK_S
        return handler and within(handler, lambda context: self._place(tenant), ask_s)

    def _tenant_of(self, call: grpc.HandlerCallDetails) -> str:
        """Empty for who may ask without a key, and has none."""
        try:
            return self._access.tenant_of(text_metadata(call.invocation_metadata))
        except TandemError:
            return ""

    @contextmanager
    def _place(self, tenant: str) -> Iterator[None]:
        call = object()
        self._places.hold(call, tenant)
        try:
            yield
        finally:
            self._places.leave(call)


def within(handler: Handler, block: Block, ask_s: float = ASK_S) -> Handler:
    """The same, within a block of its own each time: from the call's head on until all of its
    answer is written. The one message of a call that has no more has to come in `ask_s`."""
    _, method = kind_and_method(handler)

    # Of this kind, since gRPC itself would wait for the message of others before it calls us. And a
    # coroutine that writes, which ends with its call: a generator that is not being awaited when
    # the client leaves ends later, and to ask for the call's peer then ends the process.
    async def called(requests: Any, context: Context) -> None:
        with block(context):
            try:
                request = requests if handler.request_streaming else await _message(context, ask_s)
                await _answer(method, request, context, is_stream=handler.response_streaming)
            except grpc.aio.InternalError:
                # Nobody is there to write to. A moment later gRPC would have cancelled this.
                raise asyncio.CancelledError from None
            except DecodeError:
                # gRPC would tell the client what the parser says, and the log how it came to that.
                await abort(context, InvalidRequest("the message is none of this method's"))

    return grpc.stream_stream_rpc_method_handler(
        called, handler.request_deserializer, handler.response_serializer
    )


async def _answer(method: Method, request: Any, context: Context, *, is_stream: bool) -> None:
    answer = method(request, context)
    if inspect.isasyncgen(answer):
        async with aclosing(answer):
            async for response in answer:
                await context.write(response)
    elif is_stream:
        await answer
    else:
        await context.write(await answer)


async def _message(context: Context, ask_s: float) -> Any:
    try:
        async with asyncio.timeout(ask_s):
            message = await context.read()
    except TimeoutError:
        await abort(context, DeadlineExceeded("nothing was asked"))
    if message is grpc.aio.EOF:
        # Nor has who left one: gRPC tells of that a little later, and ends this.
        await asyncio.sleep(LEAVING_S)
        await abort(context, InvalidRequest("nothing was asked"))
    return message


def kind_and_method(handler: Handler) -> tuple[str, Method]:
    """One of `KINDS`, and what a handler of it calls."""
    kind = next(each for each in KINDS if getattr(handler, each))
    return kind, getattr(handler, kind)
