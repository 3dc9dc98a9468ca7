"""How calls by gRPC end, counted by method and status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.grpc_access import Continuation, Handler
from gateway.grpc_calls import within
from gateway.outcomes import OTHER, Outcomes
from tandem.v1 import admin_pb2, inference_pb2

METHODS = frozenset(
    f"/{service.full_name}/{method.name}"
    for file in (inference_pb2, admin_pb2, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
# As for HTTP: what is wrong with a call itself.
AT_FAULT = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"})
STATUSES = {each.value[0]: each for each in grpc.StatusCode}


def grpc_outcomes() -> Outcomes:
    """None yet."""
    return Outcomes(AT_FAULT)


class CountedCalls(grpc.aio.ServerInterceptor):
    """Adds each call to the `outcomes` when it has ended: to be the outermost, so that refusals are
    counted as well. What gRPC itself ends before it calls anybody is not known here."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        asked = handler_call_details.method
        method = asked if asked in METHODS else OTHER
        handler = await continuation(handler_call_details)
        if handler is None:
            self._outcomes.add(method, grpc.StatusCode.UNIMPLEMENTED.name, "")
            return None
        return within(handler, lambda context: self._counted(method, context))

    @contextmanager
    def _counted(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        # As gRPC itself has it, where nobody says how it ends.
        otherwise = grpc.StatusCode.CANCELLED
        try:
            yield
            otherwise = grpc.StatusCode.OK
        except Exception:
            otherwise = grpc.StatusCode.UNKNOWN
            raise
        finally:
            # Until somebody has said it is 0, whatever its type says.
            said: Any = context.code() or otherwise
            code = said if isinstance(said, grpc.StatusCode) else STATUSES[said]
            self._outcomes.add(method, code.name, context.peer())
