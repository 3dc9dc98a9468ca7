"""Keys for all that is asked by gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc_health.v1 import health

from gateway.access import Access
from gateway.refusals import Refusals
from tandem.core.errors import TandemError
from tandem.v1 import admin_pb2, inference_pb2
from tandem.wire.status import abort

# What orchestrators ask. All others need a key: reflection, too, and what is not there; and `Watch`
# of the same service, which would hold a place among the calls for as long as a stranger likes.
OPEN_METHOD = f"/{health.SERVICE_NAME}/Check"
# What only operators may.
OPERATORS_SERVICE = f"/{admin_pb2.DESCRIPTOR.services_by_name['AdminService'].full_name}/"
# What shows all tenants' requests.
_INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
WATCHERS_METHOD = f"/{_INFERENCE.full_name}/{_INFERENCE.methods_by_name['GetTimeline'].name}"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Ends the call of whoever may not ask, before any message of it is read, and counts them."""

    def __init__(self, access: Access, refusals: Refusals) -> None:
        self._access = access
        self._refusals = refusals

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        try:
            self._check(
                handler_call_details.method,
                text_metadata(handler_call_details.invocation_metadata),
            )
        except TandemError as error:
            self._refusals.add(error.reason, error.message)
            return refusal_handler(error)
        return await continuation(handler_call_details)

    def _check(self, method: str, metadata: Mapping[str, str]) -> None:
        if method.startswith(OPERATORS_SERVICE):
            self._access.check_operator(metadata)
        elif method == WATCHERS_METHOD:
            self._access.check_watcher(metadata)
        elif method != OPEN_METHOD:
            self._access.tenant_of(metadata)


def text_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """What came beside a message, but for what is no text."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def refusal_handler(error: TandemError) -> Handler:
    """Answers a call with an error, without reading it."""

    # Of a kind that fits all calls: to whoever is refused, one that ends at once is like another.
    async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
