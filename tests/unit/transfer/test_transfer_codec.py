"""The codec against protobuf, against safetensors, and against damage."""

from __future__ import annotations

import json
import struct
from random import Random
from time import thread_time

import numpy as np
import pytest
import safetensors.numpy
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tandem.core.errors import DataLoss
from tandem.core.kv import ITEM_SIZES, KVLayout, Plane
from tandem.transfer import codec
from tandem.transfer.blank_bytes import blank_bytes
from tandem.transfer.codec import (
    MAX_HEAD_BYTES,
    Frame,
    FrameHeader,
    decode_request,
    encode_frame,
)
from tandem.v1 import kv_pb2

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
LAYOUTS = st.builds(
    KVLayout,
    num_layers=st.integers(1, 6),
    num_kv_heads=st.integers(1, 4),
    head_dim=st.integers(1, 8),
    block_size=st.integers(1, 8),
    dtype=st.sampled_from(sorted(ITEM_SIZES)),
)


@st.composite
def frames(draw: st.DrawFn) -> tuple[FrameHeader, KVLayout, bytes]:
    layout = draw(LAYOUTS)
    first_layer = draw(st.integers(0, 2**31))
    header = FrameHeader(
        transfer_id=draw(st.binary(max_size=20)),
        epoch=draw(U64),
        number=draw(U64),
        plane=draw(st.sampled_from(Plane)),
        layers=range(first_layer, first_layer + draw(st.integers(1, 4))),
        first_token=draw(st.integers(0, 2**31)),
        num_tokens=draw(st.integers(1, 9)),
    )
    return header, layout, Random(draw(U32)).randbytes(header.num_bytes(layout))


LAYOUT = KVLayout(num_layers=4, num_kv_heads=2, head_dim=3, block_size=4, dtype="float16")
HEADER = FrameHeader(b"capability", 7, 5, Plane.VALUE, range(1, 3), 4, 6)
ITEMS = Random(0).randbytes(HEADER.num_bytes(LAYOUT))


def encoded(header: FrameHeader, layout: KVLayout, items: bytes) -> bytes:
    return encode_frame(header, layout, lambda out: out.__setitem__(slice(None), items))


RAW = encoded(HEADER, LAYOUT, ITEMS)


def decoded(raw: bytes) -> Frame:
    frame = decode_request(raw)
    assert isinstance(frame, Frame)
    return frame


def message_of(raw: bytes) -> kv_pb2.KvFrame:
    return kv_pb2.PushKvRequest.FromString(raw).frame


@given(frames())
def test_round_trip(case: tuple[FrameHeader, KVLayout, bytes]) -> None:
    header, layout, items = case
    frame = decoded(encoded(header, layout, items))
    assert frame.header == header
    assert frame.verified_items(layout) == items


@given(frames())
def test_protobuf_reads_and_writes_the_same_bytes(
    case: tuple[FrameHeader, KVLayout, bytes],
) -> None:
    header, layout, items = case
    raw = encoded(header, layout, items)
    message = kv_pb2.PushKvRequest.FromString(raw)
    assert message.SerializeToString() == raw
    frame = message.frame
    assert (frame.transfer_id, frame.epoch, frame.number) == (
        header.transfer_id,
        header.epoch,
        header.number,
    )
    assert (frame.plane, frame.dtype) == (header.plane, layout.dtype)
    assert (frame.first_layer, frame.num_layers) == (header.layers.start, len(header.layers))
    assert (frame.first_head, frame.num_heads) == (0, layout.num_kv_heads)
    assert (frame.first_token, frame.num_tokens) == (header.first_token, header.num_tokens)
    assert frame.payload.endswith(items)


@given(frames())
def test_safetensors_reads_the_payload(case: tuple[FrameHeader, KVLayout, bytes]) -> None:
    header, layout, items = case
    payload = message_of(encoded(header, layout, items)).payload
    ((name, tensor),) = safetensors.deserialize(payload)
    assert name == "kv"
    assert tensor["shape"] == list(header.shape(layout))
    assert tensor["data"] == items
    if layout.dtype != "bfloat16":  # numpy has none
        array = safetensors.numpy.load(payload)["kv"]
        assert array.dtype == np.dtype(layout.dtype)
        assert array.tobytes() == items


def test_a_checksum_that_happens_to_be_zero_is_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "checksum_of", lambda *_: 0)
    raw = encoded(HEADER, LAYOUT, ITEMS)
    assert len(raw) == len(RAW)
    assert message_of(raw).checksum == 0
    assert decoded(raw).verified_items(LAYOUT) == ITEMS


def test_items_that_cannot_be_read_make_no_frame() -> None:
    def fail(out: memoryview) -> None:
        raise ValueError("no such region")

    with pytest.raises(ValueError, match="no such region"):
        encode_frame(HEADER, LAYOUT, fail)


def test_each_frame_has_bytes_of_its_own() -> None:
    one = encoded(HEADER, LAYOUT, ITEMS)
    two = encoded(HEADER, LAYOUT, bytes(len(ITEMS)))
    assert decoded(one).verified_items(LAYOUT) == ITEMS
    assert not any(decoded(two).verified_items(LAYOUT))


@pytest.mark.parametrize("size", [0, 1])
def test_bytes_that_python_shares_are_not_written(size: int) -> None:
    with pytest.raises(ValueError, match="shared"):
        blank_bytes(size)


# Written by others


def _fields(serialised: bytes) -> list[bytes]:
    """The fields of a serialised `KvFrame`, one by one."""
    message = kv_pb2.KvFrame.FromString(serialised)
    return [
        kv_pb2.KvFrame(**{field.name: value}).SerializeToString()
        for field, value in message.ListFields()
    ]


def _request(frame_bytes: bytes) -> bytes:
    size, encoded = len(frame_bytes), b""
    while size >= 0x80:
        encoded, size = encoded + bytes([size & 0x7F | 0x80]), size >> 7
    return b"\x12" + encoded + bytes([size]) + frame_bytes


@given(st.permutations(_fields(message_of(RAW).SerializeToString())))
def test_fields_may_come_in_any_order(fields: list[bytes]) -> None:
    raw = _request(b"".join(fields))
    assert message_of(raw) == message_of(RAW)
    frame = decoded(raw)
    assert frame.header == HEADER
    assert frame.verified_items(LAYOUT) == ITEMS


@pytest.mark.parametrize(
    "unknown", [b"\xa0\x06\x2a", b"\xa2\x06\x02hi", b"\xa1\x06" + bytes(8), b"\xa5\x06" + bytes(4)]
)
def test_fields_of_a_later_version_are_skipped(unknown: bytes) -> None:
    raw = _request(unknown + message_of(RAW).SerializeToString() + unknown)
    assert decoded(raw).verified_items(LAYOUT) == ITEMS


@pytest.mark.parametrize(
    "field",
    [
        b"\x20\x01",  # its plane
        b"\x7a\x00",  # its payload
        b"\xa0\x06\x2a",  # one of a later version
    ],
)
def test_a_message_of_nothing_but_tiny_fields_costs_nobody_its_parsing(field: bytes) -> None:
    """Anybody who reaches the port could hold up the event loop for seconds with each."""
    raw = _request(field * (2**20 // len(field)))
    start_s = thread_time()
    with pytest.raises(DataLoss):
        decode_request(raw)
    assert thread_time() - start_s < 0.01


def test_a_number_of_too_many_bytes_is_refused() -> None:
    """However small it is: one of a megabyte would take the square of that to read."""
    frame_bytes = message_of(RAW).SerializeToString()
    size = bytes(len(frame_bytes) >> shift & 0x7F | 0x80 for shift in range(0, 70, 7)) + b"\x00"
    with pytest.raises(DataLoss):
        decode_request(b"\x12" + size + frame_bytes)


@pytest.mark.parametrize(
    "request_",
    [
        kv_pb2.PushKvRequest(open=kv_pb2.TransferOpen(sender="x" * MAX_HEAD_BYTES)),
        kv_pb2.PushKvRequest(frame=kv_pb2.KvFrame(plane=1, dtype="x" * MAX_HEAD_BYTES)),
    ],
)
def test_what_is_no_kv_is_small(request_: kv_pb2.PushKvRequest) -> None:
    with pytest.raises(DataLoss):
        decode_request(request_.SerializeToString())


def _contracts_checksum(message: kv_pb2.KvFrame) -> int:
    """XXH3-64 of all fields before it, numbers in little-endian, and the payload."""
    head = message
    numbers = struct.pack(
        "<QQ7I",
        *(head.epoch, head.number, head.plane, head.first_layer, head.num_layers),
        *(head.first_head, head.num_heads, head.first_token, head.num_tokens),
    )
    parts = (head.transfer_id, numbers, head.dtype.encode(), head.payload)
    return xxhash.xxh3_64_intdigest(b"".join(parts))


@given(frames())
def test_the_checksum_covers_what_the_contract_says(
    case: tuple[FrameHeader, KVLayout, bytes],
) -> None:
    header, layout, items = case
    message = message_of(encoded(header, layout, items))
    assert message.checksum == _contracts_checksum(message)


def _rechecked(message: kv_pb2.KvFrame) -> bytes:
    """With the checksum that the contract asks for."""
    message.checksum = _contracts_checksum(message)
    return kv_pb2.PushKvRequest(frame=message).SerializeToString()


def _safetensors(items: bytes, indent: int | None = 1, **tensors: dict[str, object]) -> bytes:
    text = json.dumps(tensors, indent=indent).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + items


def _tensor(**changes: object) -> dict[str, object]:
    shape = list(HEADER.shape(LAYOUT))
    return {"data_offsets": [0, len(ITEMS)], "shape": shape, "dtype": "F16", **changes}


def _foreign(payload: bytes) -> bytes:
    message = message_of(RAW)
    message.payload = payload
    return _rechecked(message)


def test_another_spelling_of_the_same_safetensors_header_is_read() -> None:
    assert decoded(_foreign(_safetensors(ITEMS, kv=_tensor()))).verified_items(LAYOUT) == ITEMS


def test_what_safetensors_itself_writes_is_read() -> None:
    array = np.frombuffer(ITEMS, np.float16).reshape(HEADER.shape(LAYOUT))
    raw = _foreign(safetensors.numpy.save({"kv": array}, {"by": "another"}))
    assert decoded(raw).verified_items(LAYOUT) == ITEMS


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(8),
        b"\xff" * 16,
        ITEMS,
        _safetensors(ITEMS),
        _safetensors(ITEMS, other=_tensor()),
        _safetensors(ITEMS, kv=_tensor(dtype="BF16")),
        _safetensors(ITEMS, kv=_tensor(shape=[6, 2, 2, 3])),
        _safetensors(ITEMS, kv=_tensor(shape=[-1, 2])),
        _safetensors(ITEMS, kv=_tensor(data_offsets=[2, 2])),
        _safetensors(ITEMS[:-2], kv=_tensor()),
        _safetensors(ITEMS + b"xx", kv=_tensor()),
        # Behind a header as ours.
        message_of(RAW).payload[:-2],
        message_of(RAW).payload + b"xx",
        _safetensors(b"", kv=_tensor(shape=[0, 6, 2, 3], data_offsets=[0, 0])),
        _safetensors(b"", None, kv=_tensor()),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_a_payload_that_is_something_else_is_refused(payload: bytes) -> None:
    with pytest.raises(DataLoss):
        decoded(_foreign(payload)).verified_items(LAYOUT)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"},
        {"dtype": ""},
        {"first_head": 1},
        {"num_heads": 1},
        {"num_tokens": 5},
        {"num_layers": 1},
        {"num_layers": 2**32 - 1},
    ],
)
def test_a_header_that_contradicts_pool_or_payload_is_refused(change: dict[str, object]) -> None:
    message = message_of(RAW)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(DataLoss):
        decoded(_rechecked(message)).verified_items(LAYOUT)


@pytest.mark.parametrize("plane", [0, 3, -1, 2**31 - 1])
def test_an_unknown_plane_is_refused(plane: int) -> None:
    message = message_of(RAW)
    message.plane = plane
    with pytest.raises(DataLoss):
        decode_request(kv_pb2.PushKvRequest(frame=message).SerializeToString())


# Damage


def _survives(raw: bytes) -> bool:
    """Whether the bytes pass for a frame. No exception but ours may come out."""
    try:
        frame = decode_request(raw)
        if not isinstance(frame, Frame):
            return False
        items = frame.verified_items(LAYOUT)
    except DataLoss:
        return False
    assert (frame.header, bytes(items)) == (HEADER, ITEMS), "damage went unnoticed"
    return True


def test_every_flipped_bit_is_noticed() -> None:
    for index in range(len(RAW) * 8):
        damaged = bytearray(RAW)
        damaged[index // 8] ^= 1 << index % 8
        assert not _survives(bytes(damaged)), index


def test_every_truncation_is_noticed() -> None:
    for size in range(len(RAW)):
        assert not _survives(RAW[:size]), size


def test_bytes_too_many_are_noticed() -> None:
    assert not _survives(RAW + b"\0")
    assert not _survives(RAW + RAW)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: RAW[:40] + tail))
@example(b"")
@example(b"\x12")
@example(b"\x12\x80")
@example(b"\x12" + b"\xff" * 20)
@example(b"\x12\x02\x7a\x05")
@example(b"\x12\x02\x00\x00")
def test_random_bytes_raise_nothing_else(raw: bytes) -> None:
    assert not _survives(raw)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.binary(max_size=4)), max_size=4))
def test_mutated_frames_raise_nothing_else(edits: list[tuple[int, bytes]]) -> None:
    raw = RAW
    for index, put in edits:
        raw = raw[:index] + put + raw[index + len(put) :]
    assert _survives(raw) or raw != RAW


FRAME_FIELDS = {
    "transfer_id": st.binary(max_size=8),
    "epoch": U64,
    "number": U64,
    "plane": st.integers(0, 2**31 - 1),
    "first_layer": U32,
    "num_layers": U32,
    "first_head": U32,
    "num_heads": U32,
    "first_token": U32,
    "num_tokens": U32,
    "dtype": st.text(max_size=8),
    "payload": st.binary(max_size=32),
}


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional=FRAME_FIELDS), st.booleans())
def test_any_header_raises_nothing_else(changes: dict[str, object], rechecked: bool) -> None:
    """Even with the right checksum, which whoever writes nonsense on purpose has."""
    message = message_of(RAW)
    for name, value in changes.items():
        setattr(message, name, value)
    raw = (
        _rechecked(message)
        if rechecked
        else kv_pb2.PushKvRequest(frame=message).SerializeToString()
    )
    try:
        frame = decode_request(raw)
        assert isinstance(frame, Frame)
        items = frame.verified_items(LAYOUT)
    except DataLoss:
        return
    assert len(items) == frame.header.num_bytes(LAYOUT)
    if not rechecked:
        assert (frame.header, bytes(items)) == (HEADER, ITEMS)
