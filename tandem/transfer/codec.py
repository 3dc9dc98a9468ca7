"""KV frames, to and from the wire.

A frame is a `PushKvRequest` like any other to protobuf, but its payload, megabytes of it, never
passes through a message object: the sender has it written right behind the serialised header
fields, the receiver takes a view of it. The payload is a safetensors file with one tensor, "kv".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

import safetensors
import xxhash
from google.protobuf.message import DecodeError

from tandem.core.errors import DataLoss
from tandem.core.kv import KVLayout, Plane
from tandem.transfer.blank_bytes import blank_bytes
from tandem.v1 import kv_pb2

_SAFETENSORS_DTYPES = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int8": "I8",
}
_FIXED64, _LENGTH_DELIMITED = 1, 2
_FRAME_TAG = bytes([kv_pb2.PushKvRequest.FRAME_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_CHECKSUM_TAG = bytes([kv_pb2.KvFrame.CHECKSUM_FIELD_NUMBER << 3 | _FIXED64])
_PAYLOAD_TAG = bytes([kv_pb2.KvFrame.PAYLOAD_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])

# To parse a message costs the event loop little, whoever sent it: besides KV it has no more bytes,
# and a frame no more fields, many times what there is to say today.
MAX_HEAD_BYTES = 64 * 2**10
MAX_FRAME_FIELDS = 64

CHECKSUM = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What a frame holds: one plane of `layers`, all heads, tokens
    `[first_token, first_token + num_tokens)` of the sequence."""

    transfer_id: bytes
    epoch: int
    number: int
    plane: Plane
    layers: range
    first_token: int
    num_tokens: int

    @property
    def end(self) -> int:
        """One past the last token."""
        return self.first_token + self.num_tokens

    def shape(self, layout: KVLayout) -> tuple[int, int, int, int]:
        return (len(self.layers), self.num_tokens, layout.num_kv_heads, layout.head_items)

    def num_bytes(self, layout: KVLayout) -> int:
        """Size of the items."""
        return len(self.layers) * self.num_tokens * layout.token_bytes


def encode_frame(
    header: FrameHeader, layout: KVLayout, read_items: Callable[[memoryview], None]
) -> bytes:
    """The serialised `PushKvRequest`. `read_items` copies the frame's items, as
    `KVRead.end` does, to the place in it that it is given."""
    prefix = _payload_prefix(header, layout)
    num_bytes = header.num_bytes(layout)
    message = _to_message(header, layout)
    fields = message.SerializeToString() + _CHECKSUM_TAG
    payload = _PAYLOAD_TAG + _varint(len(prefix) + num_bytes) + prefix
    frame_size = _varint(len(fields) + CHECKSUM.size + len(payload) + num_bytes)
    checksum_at = len(_FRAME_TAG) + len(frame_size) + len(fields)
    items_at = checksum_at + CHECKSUM.size + len(payload)

    frame, view = blank_bytes(items_at + num_bytes)
    view[:items_at] = b"".join((_FRAME_TAG, frame_size, fields, bytes(CHECKSUM.size), payload))
    read_items(view[items_at:])
    CHECKSUM.pack_into(view, checksum_at, checksum_of(message, prefix, view[items_at:]))
    return frame


class Frame:
    """A received frame: parsed, not yet verified."""

    def __init__(self, message: kv_pb2.KvFrame, payload: memoryview) -> None:
        self._message = message
        self._payload = payload
        try:
            plane = Plane(message.plane)
        except ValueError:
            raise DataLoss(f"frame {message.number} is of no known plane") from None
        self.header = FrameHeader(
            transfer_id=message.transfer_id,
            epoch=message.epoch,
            number=message.number,
            plane=plane,
            layers=range(message.first_layer, message.first_layer + message.num_layers),
            first_token=message.first_token,
            num_tokens=message.num_tokens,
        )

    def verified_items(self, layout: KVLayout) -> memoryview:
        """The items, once dtype, shape and checksum are found right.

        Raises `DataLoss`: the transfer was opened with this layout, so a frame of another is as
        damaged as one whose checksum is wrong.
        """
        message = self._message
        if message.dtype != layout.dtype:
            raise DataLoss(f"frame of {message.dtype}, the pool holds {layout.dtype}")
        if (message.first_head, message.num_heads) != (0, layout.num_kv_heads):
            raise DataLoss("frame of a part of the heads")
        prefix, items = self._split_payload(layout)
        if checksum_of(message, prefix, items) != message.checksum:
            raise DataLoss(f"checksum of frame {message.number} is wrong")
        if len(items) != self.header.num_bytes(layout):
            raise DataLoss(f"frame {message.number} has {len(items)} bytes of items")
        return items

    def _split_payload(self, layout: KVLayout) -> tuple[memoryview, memoryview]:
        expected = _payload_prefix(self.header, layout)
        if self._payload[: len(expected)] == expected:
            return self._payload[: len(expected)], self._payload[len(expected) :]
        return self._split_foreign_payload(layout)

    def _split_foreign_payload(self, layout: KVLayout) -> tuple[memoryview, memoryview]:
        """A safetensors file whose header is written otherwise than ours, but says the same."""
        try:
            ((name, tensor),) = safetensors.deserialize(bytes(self._payload))  # type: ignore[no-untyped-call]
        except (safetensors.SafetensorError, ValueError):
            raise DataLoss(f"payload of frame {self.header.number} is damaged") from None
        expected = ("kv", _SAFETENSORS_DTYPES[layout.dtype], list(self.header.shape(layout)))
        if (name, tensor["dtype"], tensor["shape"]) != expected:
            raise DataLoss(f"frame {self.header.number} holds another tensor than it says")
        split = len(self._payload) - len(tensor["data"])
        return self._payload[:split], self._payload[split:]


def decode_request(raw: bytes) -> kv_pb2.PushKvRequest | Frame:
    """A received message. Raises `DataLoss` if it cannot be parsed."""
    try:
        if raw[:1] != _FRAME_TAG:
            return kv_pb2.PushKvRequest.FromString(_checked_head(raw))
        view = memoryview(raw)
        size, start = _read_varint(view, 1)
        if start + size != len(view):
            raise ValueError("trailing bytes")
        fields, payload = _take_payload(view[start:])
        return Frame(kv_pb2.KvFrame.FromString(_checked_head(fields)), payload)
    except (ValueError, IndexError, DecodeError):
        raise DataLoss("a KV message cannot be parsed") from None


def _to_message(header: FrameHeader, layout: KVLayout) -> kv_pb2.KvFrame:
    return kv_pb2.KvFrame(
        transfer_id=header.transfer_id,
        epoch=header.epoch,
        number=header.number,
        plane=kv_pb2.KvPlane.ValueType(header.plane),
        first_layer=header.layers.start,
        num_layers=len(header.layers),
        first_head=0,
        num_heads=layout.num_kv_heads,
        first_token=header.first_token,
        num_tokens=header.num_tokens,
        dtype=layout.dtype,
    )


def _payload_prefix(header: FrameHeader, layout: KVLayout) -> bytes:
    """The safetensors header: 8 bytes of length, then JSON padded to 8 bytes."""
    tensor = {
        "dtype": _SAFETENSORS_DTYPES[layout.dtype],
        "shape": header.shape(layout),
        "data_offsets": [0, header.num_bytes(layout)],
    }
    text = json.dumps({"kv": tensor}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def checksum_of(message: kv_pb2.KvFrame, *payload: bytes | memoryview) -> int:
    """Of a frame's header fields, and of its payload, which may come in parts."""
    digest = xxhash.xxh3_64()
    digest.update(message.transfer_id)
    digest.update(
        struct.pack(
            "<QQ7I",
            message.epoch,
            message.number,
            message.plane,
            message.first_layer,
            message.num_layers,
            message.first_head,
            message.num_heads,
            message.first_token,
            message.num_tokens,
        )
    )
    digest.update(message.dtype.encode())
    for part in payload:
        digest.update(part)
    return digest.intdigest()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(view: memoryview, offset: int) -> tuple[int, int]:
    """The number, and the offset behind it."""
    value = shift = 0
    while True:
        byte = view[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise ValueError("varint is too long")


def _checked_head(head: bytes) -> bytes:
    if len(head) > MAX_HEAD_BYTES:
        raise ValueError("too large")
    return head


def _take_payload(view: memoryview) -> tuple[bytes, memoryview]:
    """All fields but the payload, and the payload. Fields may come in any order."""
    fields: list[memoryview] = []
    payload = memoryview(b"")
    offset = 0
    for _ in range(MAX_FRAME_FIELDS + 1):
        if offset == len(view):
            return b"".join(fields), payload
        start = offset
        tag, offset = _read_varint(view, offset)
        match tag & 7:
            case 0:
                _, offset = _read_varint(view, offset)
            case 1:
                offset += 8
            case 2:
                size, body = _read_varint(view, offset)
                offset = body + size
            case 5:
                offset += 4
            case _:
                raise ValueError("unknown wire type")
        if offset > len(view):
            raise ValueError("truncated field")
        if tag == _PAYLOAD_TAG[0]:
            payload = view[body:offset]
        else:
            fields.append(view[start:offset])
    raise ValueError("too many fields")
