"""Keys for all that is asked by gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health

from tandem.core.errors import TandemError
from tandem.wire.status import abort

# What orchestrators ask. All others need a key: reflection, too, and what is not there.
OPEN_SERVICE = f"/{health.SERVICE_NAME}/"


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Ends the call of whoever may not ask, before any message of it is read. `tenant_of` raises
    for these."""

    def __init__(self, tenant_of: Callable[[Mapping[str, str]], str]) -> None:
        self._tenant_of = tenant_of

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.aio.ServerInterceptor`."""
        if not handler_call_details.method.startswith(OPEN_SERVICE):
            try:
                self._tenant_of(text_metadata(handler_call_details.invocation_metadata))
            except TandemError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def text_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """What came beside a message, but for what is no text."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _refusal(error: TandemError) -> grpc.RpcMethodHandler[Any, Any]:
    # Of a kind that fits all calls: to whoever is refused, one that ends at once is like another.
    async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
