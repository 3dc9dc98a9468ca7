"""`KvTransferService`, taking its messages unparsed: see `tandem.transfer.codec` why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from traceback import clear_frames

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
            return await receiver.receive(requests)
        except TandemError as error:
            # The others are everyday: its sequence was dropped, here or there, or ended with its
            # first token.
            if not isinstance(error, Cancelled | Released):
                log.warning("transfer refused", reason=error.reason, why=error.message)
            # As `KvSender._run` does: they hold the frame that was refused.
            clear_frames(error.__traceback__)
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
