"""Errors as gRPC statuses with google.rpc details, and back: the one table."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, NoReturn, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tandem.core.errors import (
    Cancelled,
    ConfigError,
    DataLoss,
    DeadlineExceeded,
    Fenced,
    InvalidRequest,
    Mismatch,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TandemError,
    Unauthenticated,
    Unavailable,
    kind_of,
)

log = structlog.get_logger(__name__)

DOMAIN = "tandem"
INTERNAL_MESSAGE = "internal error"

# The first kind of a code is what a status without details is taken for.
_KINDS: tuple[tuple[type[TandemError], grpc.StatusCode], ...] = (
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Mismatch, grpc.StatusCode.FAILED_PRECONDITION),
    (ConfigError, grpc.StatusCode.FAILED_PRECONDITION),
    (Fenced, grpc.StatusCode.ABORTED),
    (DataLoss, grpc.StatusCode.DATA_LOSS),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Cancelled, grpc.StatusCode.CANCELLED),
    (TandemError, grpc.StatusCode.INTERNAL),
)
_CODE_OF = dict(_KINDS)
_KIND_OF_CODE = {code: kind for kind, code in reversed(_KINDS)}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End a call with an error. What is not a `TandemError` is logged, and its words kept back."""
    if not isinstance(error, TandemError):
        log.error("call_failed", exc_info=error)
        error = TandemError(INTERNAL_MESSAGE)
    try:
        await context.abort_with_status(rpc_status.to_status(to_status(error)))
    except grpc.aio.AbortError as aborted:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(partial(_forget_where, aborted))
        raise


def to_status(error: TandemError) -> status_pb2.Status:
    """The status, with ErrorInfo, and BadRequest and RetryInfo where the error has them."""
    code = next(_CODE_OF[kind] for kind in type(error).__mro__ if kind in _CODE_OF)
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


async def call_error(call: Any) -> grpc.aio.AioRpcError:
    """How a call of ours ended, once it has: as the exception that awaiting it would raise."""
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )


def to_tandem_error(
    rpc_error: grpc.RpcError,
    otherwise: type[TandemError] | None = None,
    *,
    in_full: bool = False,
) -> TandemError:
    """The error that the other side raised, or what the failure of a call amounts to, which was
    perhaps gRPC's or a proxy's: by its code, or what it is `otherwise`. `in_full` adds the words
    of these, which name addresses: for whoever gave the address, and nobody else."""
    # What gRPC raises is always a call as well, save in its type.
    call = cast(grpc.Call, rpc_error)
    status = _status_of(call)
    by_code = _KIND_OF_CODE.get(call.code(), TandemError)
    kind = otherwise or by_code
    if status is None:
        words = f": {call.details()}" if in_full else ""
        return kind(f"the call ended with {call.code().name}{words}")
    return _from_status(status, by_code, kind)


def _forget_where(aborted: BaseException, task: asyncio.Task[Any]) -> None:
    """Of the end of a call, once its `task` is over: gRPC's state of it keeps what it was aborted
    with, and that leads to the call's frames, which know the state. Its request, megabytes, would
    stay until garbage is collected."""
    aborted.__traceback__ = aborted.__context__ = None


def _details(error: TandemError) -> list[Message]:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.param is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.param, description=error.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    return details


def _status_of(call: grpc.Call) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(call)
    except (ValueError, DecodeError):
        # The details contradict the status: they are not ours.
        return None


def _from_status(
    status: status_pb2.Status, by_code: type[TandemError], kind: type[TandemError]
) -> TandemError:
    """`by_code` if it is one of ours, with a reason that this build does not know; `kind` if it is
    none of ours."""
    param: str | None = None
    retry_after_s: float | None = None
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            kind = kind_of(info.reason, default=by_code)
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            param = bad_request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return kind(status.message, param=param, retry_after_s=retry_after_s)
