"""The one exception tree.

Every failure that crosses a part's boundary is one of these. They are mapped to gRPC statuses
(`tandem.wire.status`) and to OpenAI's JSON (`gateway.http.errors`) at the edges and nowhere else.
"""

from __future__ import annotations


class TandemError(Exception):
    """Base of all errors. `reason` is a stable, machine-readable name for the kind of failure."""

    reason = "INTERNAL"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(TandemError):
    """The caller's input is wrong; the same request can never succeed. `param` names the field."""

    reason = "INVALID_REQUEST"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and `max_tokens`, are more than the model takes."""

    reason = "CONTEXT_LENGTH_EXCEEDED"


class NotFound(TandemError):
    """A named thing (a model, a route, a transfer) does not exist."""

    reason = "NOT_FOUND"


class Unauthenticated(TandemError):
    """The caller did not prove who it is: no key, or one that is not known."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(TandemError):
    """It is known who calls, and that it may not do this."""

    reason = "PERMISSION_DENIED"


class ResourceExhausted(TandemError):
    """No room at present (blocks, queue places); the same request may succeed later."""

    reason = "RESOURCE_EXHAUSTED"


class RateLimitExceeded(ResourceExhausted):
    """The caller's tenant has as much in flight as it may; others may well be served."""

    reason = "RATE_LIMIT_EXCEEDED"


class Mismatch(TandemError):
    """Two parts do not fit together (model, layout, protocol), or a precondition does not hold."""

    reason = "MISMATCH"


class Fenced(TandemError):
    """The sender's epoch, term or capability is no longer the current one."""

    reason = "FENCED"


class DataLoss(TandemError):
    """Bytes arrived that are not the bytes that were sent."""

    reason = "DATA_LOSS"


class EngineFailed(TandemError):
    """The engine failed in a step. Which of the step's sequences is why, if any, nobody knows: each
    may well succeed elsewhere."""

    reason = "ENGINE_FAILED"


class Unavailable(TandemError):
    """The part that would serve this is down, draining or unreachable."""

    reason = "UNAVAILABLE"


class DeadlineExceeded(TandemError):
    """The request's time ran out before it was finished."""

    reason = "DEADLINE_EXCEEDED"


class Cancelled(TandemError):
    """The caller gave up."""

    reason = "CANCELLED"


class ConfigError(TandemError):
    """The operator's input is wrong: a flag, a file, a device, a port. `param` names the flag."""

    reason = "CONFIG"


_BY_REASON: dict[str, type[TandemError]] = {
    each.reason: each
    for each in (
        InvalidRequest,
        ContextLengthExceeded,
        NotFound,
        Unauthenticated,
        PermissionDenied,
        ResourceExhausted,
        RateLimitExceeded,
        Mismatch,
        Fenced,
        DataLoss,
        EngineFailed,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        ConfigError,
    )
}


def kind_of(reason: str, default: type[TandemError] = TandemError) -> type[TandemError]:
    """The kind of error that another process named, or `default` if it is not known here."""
    return _BY_REASON.get(reason, default)


def error_of(reason: str, message: str) -> TandemError:
    """The error that another process named; one whose reason is not known here is internal."""
    return kind_of(reason)(message)
