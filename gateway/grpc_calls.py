"""How many calls there may be by gRPC at a time."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from gateway.grpc_access import refusal_handler
from gateway.refusals import Refusals
from tandem.core.errors import ResourceExhausted

# Of all clients.
MAX_CALLS = 2**14
# What the server itself takes beyond that, before it refuses without a word to us: calls that are
# refused here, and such as have not sent their message yet.
SPARE_CALLS = 2**10
RETRY_AFTER_S = 1.0

KINDS: dict[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses the calls that are too many at a time, and counts them. A call is one from when its
    method is called to its end."""

    def __init__(self, refusals: Refusals, max_calls: int = MAX_CALLS) -> None:
        self._refusals = refusals
        self._max_calls = max_calls
        self._num_calls = 0

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.aio.ServerInterceptor`."""
        if self._num_calls >= self._max_calls:
            error = ResourceExhausted("too many calls at a time", retry_after_s=RETRY_AFTER_S)
            self._refusals.add(error.reason, error.message)
            return refusal_handler(error)
        handler = await continuation(handler_call_details)
        return handler and self._counted(handler)

    def _counted(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """The same, holding a place while it is called."""
        kind = next(each for each in KINDS if getattr(handler, each))
        method: Any = getattr(handler, kind)

        async def called(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with self._place():
                return await method(request, context)

        async def streamed(
            request: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            with self._place():
                async for response in method(request, context):
                    yield response

        # A method that streams may also be a coroutine, which writes.
        counted = streamed if inspect.isasyncgenfunction(method) else called
        return KINDS[kind](counted, handler.request_deserializer, handler.response_serializer)

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._num_calls += 1
        try:
            yield
        finally:
            self._num_calls -= 1
