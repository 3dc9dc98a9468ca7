from __future__ import annotations

import asyncio
import gc
import weakref

import grpc
import pytest
from google.rpc import error_details_pb2

from tandem.core import errors
from tandem.process.health import Health
from tandem.wire.channels import new_server, open_channel
from tandem.wire.status import abort, to_status, to_tandem_error


class Call(grpc.RpcError):
    """A failed call, as far as it is looked at."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: object = ()) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: metadata


def failed(error: errors.TandemError) -> Call:
    status = to_status(error)
    (code,) = [code for code in grpc.StatusCode if code.value[0] == status.code]
    metadata = [("grpc-status-details-bin", status.SerializeToString())]
    return Call(code, status.message, metadata)


KINDS = [errors.TandemError, *errors.TandemError.__subclasses__()]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__module__ == errors.__name__])
def test_each_kind_survives_the_wire(kind):
    error = to_tandem_error(failed(kind("why", param="p", retry_after_s=0.25)))
    assert type(error) is kind
    assert (error.message, error.param, error.retry_after_s) == ("why", "p", 0.25)
    error = to_tandem_error(failed(kind("why")))
    assert (error.param, error.retry_after_s) == (None, None)


def test_a_kind_that_shares_its_parents_code_arrives_as_itself():
    error = to_tandem_error(failed(errors.ContextLengthExceeded("too long", param="prompt")))
    assert type(error) is errors.ContextLengthExceeded


def test_a_kind_that_is_not_known_here_arrives_as_its_parent():
    class Newer(errors.InvalidRequest):
        reason = "NEWER"

    assert type(to_tandem_error(failed(Newer("why")))) is errors.InvalidRequest


def test_details_are_googles():
    status = to_status(errors.InvalidRequest("no", param="p", retry_after_s=1.5))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "tandem")
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    assert bad_request.field_violations[0].field == "p"
    retry = error_details_pb2.RetryInfo()
    assert status.details[2].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.Mismatch),
        (grpc.StatusCode.UNIMPLEMENTED, errors.TandemError),
        (grpc.StatusCode.UNKNOWN, errors.TandemError),
    ],
)
@pytest.mark.parametrize("metadata", [(), None, [("grpc-status-details-bin", b"\xff\xff")]])
def test_a_foreign_status_is_judged_by_its_code_and_not_quoted(code, kind, metadata):
    error = to_tandem_error(Call(code, "secret 10.0.0.1", metadata))
    assert type(error) is kind
    assert "secret" not in error.message


class Asked:
    """A request, of whatever size."""

    service = "not there"


async def refuse(request, context):
    await abort(context, errors.NotFound("no"))


@pytest.mark.parametrize("refuse", [refuse, Health().Check])
async def test_a_call_that_is_refused_leaves_nothing_of_its_request(refuse):
    """Not even until garbage is collected: whoever is refused may ask again at once."""
    gone = asyncio.Event()

    def read(_):
        request = Asked()
        weakref.finalize(request, gone.set)
        return request

    server = new_server()
    handler = grpc.unary_unary_rpc_method_handler(refuse, read)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tests.Refuses", {"Ask": handler}),)
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    gc.disable()
    try:
        async with open_channel(address) as channel:
            call = channel.unary_unary("/tests.Refuses/Ask")(b"")
            assert await call.code() is grpc.StatusCode.NOT_FOUND
        async with asyncio.timeout(10):
            await gone.wait()
    finally:
        gc.enable()
        await server.stop(0)
