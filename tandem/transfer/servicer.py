"""`KvTransferService`, taking its messages unparsed: see `tandem.transfer.codec` why."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

import grpc
import structlog

from tandem.core.errors import Cancelled, TandemError
from tandem.transfer.receiver import KvReceiver
from tandem.transfer.reservation import Released
from tandem.v1 import kv_pb2
from tandem.wire.status import abort
from tandem.wire.tls import Role, require_role

log = structlog.get_logger(__name__)

SERVICE = kv_pb2.DESCRIPTOR.services_by_name["KvTransferService"].full_name


def add_kv_transfer_service(receiver: KvReceiver, server: grpc.aio.Server) -> None:
    """Serve `PushKv` from a receiver."""

    async def push_kv(
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext[bytes, kv_pb2.PushKvResponse],
    ) -> kv_pb2.PushKvResponse:
        try:
            require_role(context, Role.PREFILL)
            # gRPC's, which keeps its last message until garbage is collected, unless it is closed.
            messages = cast(AsyncGenerator[bytes, None], aiter(requests))
            async with aclosing(messages):
                return await receiver.receive(messages)
        except TandemError as error:
            # The others are everyday: its sequence was dropped, here or there, or ended with its
            # first token.
            if not isinstance(error, Cancelled | Released):
                log.warning("transfer refused", reason=error.reason, why=error.message)
            # It and what it came by know each other, as in `KvSender._run`: they hold frames.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            await abort(context, error)
        except Exception as error:
            await abort(context, error)

    handler: grpc.RpcMethodHandler[bytes, kv_pb2.PushKvResponse] = (
        grpc.stream_unary_rpc_method_handler(
            push_kv, response_serializer=kv_pb2.PushKvResponse.SerializeToString
        )
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"PushKv": handler}),)
    )
