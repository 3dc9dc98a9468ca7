"""How many parts a message of gRPC has, before it is parsed.

A field takes two bytes, and a message of one a hundred in memory: five megabytes of them take the
parser longer than others can wait for. So what is not small is skimmed, and given up where it has
more fields than any request that would be served.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from gateway.grpc_access import Continuation, Handler
from gateway.grpc_calls import KINDS, kind_and_method
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2
from tandem.wire.status import abort

# Of these all parts are parsed in two milliseconds.
SMALL_BYTES = 2**16
# A long conversation, its messages' own fields counted as well.
MAX_FIELDS = 2**14
TOO_MANY = f"the request has more than {MAX_FIELDS} fields"

# Wire types.
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10

Within = Mapping[int, Any]
"""The fields with messages in which fields are counted too, and `Within` each of these."""

_GENERATE = inference_pb2.GenerateRequest
_CHAT: Within = {inference_pb2.Chat.MESSAGES_FIELD_NUMBER: {}}
_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
METHODS: Mapping[str, Within] = {
    f"/{_SERVICE}/Generate": {
        _GENERATE.CHAT_FIELD_NUMBER: _CHAT,
        _GENERATE.TEXTS_FIELD_NUMBER: {},
        _GENERATE.TOKEN_ID_LISTS_FIELD_NUMBER: {},
        _GENERATE.ANSWER_FORM_FIELD_NUMBER: {inference_pb2.AnswerForm.ONE_OF_FIELD_NUMBER: {}},
    },
    f"/{_SERVICE}/Tokenize": {inference_pb2.TokenizeRequest.CHAT_FIELD_NUMBER: _CHAT},
}


class SizeLimit(grpc.aio.ServerInterceptor):
    """Refuses messages of too many parts."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        within = METHODS.get(handler_call_details.method)
        return handler if handler is None or within is None else _skimmed(handler, within)


def _skimmed(handler: Handler, within: Within) -> Handler:
    """The same, whose messages are skimmed before they are parsed."""
    kind, method = kind_and_method(handler)
    parse: Any = handler.request_deserializer

    def read(data: bytes) -> Any:
        # What is raised here gRPC would tell nobody about.
        if len(data) > SMALL_BYTES and num_fields(data, within) > MAX_FIELDS:
            return InvalidRequest(TOO_MANY)
        return parse(data)

    async def called(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if isinstance(request, InvalidRequest):
            await abort(context, request)
        return await method(request, context)

    return KINDS[kind](called, read, handler.response_serializer)


def num_fields(data: bytes, within: Within) -> int:
    """How many a message has, those `within` included; or as many as can be told, if it is none,
    or more than `MAX_FIELDS`."""
    num = 0
    messages = [(0, len(data), within)]
    try:
        while messages and num <= MAX_FIELDS:
            start, end, inner = messages.pop()
            while start < end and num <= MAX_FIELDS:
                num += 1
                tag, start = _varint(data, start)
                wire_type = tag & 7
                if wire_type == DELIMITED:
                    num_bytes, start = _varint(data, start)
                    if (layout := inner.get(tag >> 3)) is not None:
                        messages.append((start, min(end, start + num_bytes), layout))
                    start += num_bytes
                elif wire_type == VARINT:
                    _, start = _varint(data, start)
                else:
                    # Of groups the fields count as if they were here.
                    start += {FIXED64: 8, FIXED32: 4}.get(wire_type, 0)
    except IndexError:
        # It is no message, as the parser will say.
        pass
    return num


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = data[start]
    if value < 0x80:
        return value, start + 1
    value &= 0x7F
    for place in range(1, MAX_VARINT_BYTES):
        byte = data[start + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, start + place + 1
    raise IndexError("a number without end")
