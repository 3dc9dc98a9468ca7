"""How many calls there may be by gRPC at a time, in all and of each tenant."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import grpc

from gateway.access import Access
from gateway.grpc_access import refusal_handler, text_metadata
from gateway.places import Places
from gateway.refusals import Refusals
from tandem.core.errors import ResourceExhausted, TandemError

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


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Method: TypeAlias = "Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Any]"
Block: TypeAlias = "Callable[[grpc.aio.ServicerContext[Any, Any]], AbstractContextManager[None]]"


class CallLimit(grpc.aio.ServerInterceptor):
    """Refuses the calls that are too many at a time, in all or of a tenant, and counts them. A call
    is one from when its method is called to its end."""

    def __init__(self, access: Access, refusals: Refusals, max_calls: int = MAX_CALLS) -> None:
        self._access = access
        self._refusals = refusals
        self._places = Places(max_calls, access.tenants)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.aio.ServerInterceptor`."""
        tenant = self._tenant_of(handler_call_details)
        if not (self._places.has_room and self._places.may_have_more(tenant)):
            error = ResourceExhausted("too many calls at a time", retry_after_s=RETRY_AFTER_S)
            self._refusals.add(error.reason, error.message, tenant)
            return refusal_handler(error)
        handler = await continuation(handler_call_details)
        return handler and within(handler, lambda context: self._place(tenant))

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


def within(handler: Handler, block: Block) -> Handler:
    """The same, which is called within a block of its own each time."""
    kind, method = kind_and_method(handler)

    async def called(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        with block(context):
            return await method(request, context)

    async def streamed(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        with block(context):
            async for response in method(request, context):
                yield response

    # A method that streams may also be a coroutine, which writes.
    inner = streamed if inspect.isasyncgenfunction(method) else called
    return KINDS[kind](inner, handler.request_deserializer, handler.response_serializer)


def kind_and_method(handler: Handler) -> tuple[str, Method]:
    """One of `KINDS`, and what a handler of it calls."""
    kind = next(each for each in KINDS if getattr(handler, each))
    return kind, getattr(handler, kind)
