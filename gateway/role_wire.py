"""What differs between the command streams of the two roles: messages, and how they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from tandem.core.worker import WorkerRole
from tandem.v1 import decode_pb2, decode_pb2_grpc, prefill_pb2, prefill_pb2_grpc
from tandem.wire import commands, reports


@dataclass(frozen=True, slots=True)
class RoleWire:
    """How a role's stream is opened and written."""

    open: Callable[[grpc.aio.Channel], Any]
    request: Callable[..., Any]
    command_to_wire: Callable[[Any], Any]
    report_from_wire: Callable[[Any], Any]
    snapshot_from_wire: Callable[[Any], Any]


ROLE_WIRES = {
    WorkerRole.PREFILL: RoleWire(
        open=lambda channel: prefill_pb2_grpc.PrefillServiceStub(channel).RunBatches(),
        request=prefill_pb2.RunBatchesRequest,
        command_to_wire=commands.prefill_command_to_wire,
        report_from_wire=reports.prefill_report_from_wire,
        snapshot_from_wire=reports.prefill_snapshot_from_wire,
    ),
    WorkerRole.DECODE: RoleWire(
        open=lambda channel: decode_pb2_grpc.DecodeServiceStub(channel).RunLoop(),
        request=decode_pb2.RunLoopRequest,
        command_to_wire=commands.decode_command_to_wire,
        report_from_wire=reports.decode_report_from_wire,
        snapshot_from_wire=reports.decode_snapshot_from_wire,
    ),
}
