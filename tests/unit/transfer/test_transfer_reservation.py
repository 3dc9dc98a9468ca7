"""Coverage: what a reservation takes for its own, and when it is complete."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.errors import DataLoss, Fenced
from tandem.core.kv import KVLayout, Plane
from tandem.transfer.codec import FrameHeader
from tandem.transfer.reservation import Reservation

LAYOUT = KVLayout(num_layers=3, num_kv_heads=1, head_dim=2, block_size=4, dtype="uint16")
TRANSFER_ID, EPOCH = b"capability", 3
HEADER = FrameHeader(TRANSFER_ID, EPOCH, 0, Plane.KEY, range(3), 0, 8)


def reserve(num_tokens: int, first_token: int = 0, extra_blocks: int = 0) -> Reservation:
    blocks = SequenceBlocks(BlockAllocator(64))
    blocks.grow(LAYOUT.blocks_for(num_tokens) + extra_blocks)
    blocks.ids.reverse()
    return Reservation(
        sequence_id=1,
        transfer_id=TRANSFER_ID,
        epoch=EPOCH,
        layout=LAYOUT,
        blocks=blocks,
        first_token=first_token,
        num_tokens=num_tokens,
    )


def unit_frames(reservation: Reservation) -> list[FrameHeader]:
    """One frame for each plane, layer and block."""
    block_size = LAYOUT.block_size
    return [
        replace(
            HEADER,
            plane=plane,
            layers=range(layer, layer + 1),
            first_token=start,
            num_tokens=min(block_size, reservation.num_tokens - start),
        )
        for plane in Plane
        for layer in range(LAYOUT.num_layers)
        for start in range(reservation.first_token, reservation.num_tokens, block_size)
    ]


@given(st.integers(1, 40), st.integers(0, 9), st.integers(0, 2**32))
def test_it_is_covered_by_the_last_missing_frame_and_not_before(
    num_tokens: int, num_cached_blocks: int, seed: int
) -> None:
    first_token = min(num_cached_blocks, num_tokens // 4) * 4
    reservation = reserve(num_tokens, first_token)
    reservation.first_token_id = 7
    frames = unit_frames(reservation)
    Random(seed).shuffle(frames)
    for index, frame in enumerate(frames):
        assert not reservation.is_complete
        assert reservation.num_missing == len(frames) - index
        reservation.check(frame)
        reservation.cover(frame)
        reservation.cover(frames[Random(seed + index).randrange(index + 1)])
    assert reservation.num_missing == 0
    assert reservation.is_complete


def test_it_is_not_complete_without_the_first_token() -> None:
    reservation = reserve(4)
    for frame in unit_frames(reservation):
        reservation.cover(frame)
    assert not reservation.is_complete
    reservation.first_token_id = 0
    assert reservation.is_complete


def test_what_is_cached_already_is_not_missing() -> None:
    assert reserve(16, first_token=16).num_missing == 0
    assert reserve(17, first_token=16).num_missing == 2 * 3


def test_a_large_frame_covers_all_it_spans() -> None:
    reservation = reserve(11)
    reservation.cover(replace(HEADER, layers=range(1, 3), first_token=4, num_tokens=7))
    assert reservation.num_missing == 2 * 3 * 3 - 2 * 2


def test_blocks_are_named_by_the_tokens_place_in_the_sequence() -> None:
    reservation = reserve(11, extra_blocks=2)
    ids = reservation.blocks.ids
    assert reservation.block_ids(replace(HEADER, first_token=4, num_tokens=4)) == ids[1:2]
    assert reservation.block_ids(replace(HEADER, first_token=4, num_tokens=7)) == ids[1:3]


@pytest.mark.parametrize(
    "change",
    [
        {"transfer_id": b"another"},
        {"transfer_id": b""},
        {"epoch": 2},
        {"layers": range(0, 4)},
        {"layers": range(2, 2)},
        {"layers": range(3, 4)},
        {"first_token": 0},  # cached
        {"first_token": 8, "num_tokens": 0},
        {"first_token": 8, "num_tokens": 8},  # into the headroom
        {"first_token": 12, "num_tokens": 4},
        {"first_token": 5, "num_tokens": 3},
        {"first_token": 4, "num_tokens": 3},
        {"first_token": 8, "num_tokens": 2},
        {"first_token": 2**32 - 4, "num_tokens": 4},
    ],
)
def test_a_frame_of_something_else_is_refused(change: dict[str, object]) -> None:
    reservation = reserve(11, first_token=4, extra_blocks=2)
    fits = replace(HEADER, first_token=4, num_tokens=4)
    reservation.check(fits)
    with pytest.raises(DataLoss):
        reservation.check(replace(fits, **change))


def test_the_first_token_is_named_once() -> None:
    reservation = reserve(4)
    reservation.finish(7, None)
    reservation.finish(7, None)
    with pytest.raises(DataLoss, match="was 7 and then 8"):
        reservation.finish(8, None)
    assert reservation.first_token_id == 7


@pytest.mark.parametrize("how", ["closed", "released", "complete"])
def test_nothing_is_written_to_what_takes_no_frames(how: str) -> None:
    reservation = reserve(4)
    reservation.begin_write()
    if how == "closed":
        reservation.close()
    elif how == "released":
        reservation.blocks.release()
    else:
        reservation.num_missing, reservation.first_token_id = 0, 7
    with pytest.raises(Fenced):
        reservation.begin_write()
    assert not reservation.is_quiet
    reservation.end_write()
    assert reservation.is_quiet
    assert bool(reservation.blocks.ids) is (how != "released")
