"""How the sender groups layers and cuts chunks into frames."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefill_service.service import PrefillSettings
from tandem.core.kv import KVLayout
from tandem.transfer.layer_grouper import (
    MAX_FRAME_BYTES,
    MIN_FRAME_BYTES,
    LayerGrouper,
    Region,
)
from tandem.wire.channels import MAX_MESSAGE_BYTES

LAYOUTS = st.builds(
    KVLayout,
    num_layers=st.integers(1, 40),
    num_kv_heads=st.integers(1, 8),
    head_dim=st.sampled_from((2, 64, 128, 256)),
    block_size=st.sampled_from((4, 16, 64)),
    dtype=st.sampled_from(("float32", "bfloat16")),
)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[KVLayout, int, list[tuple[int, int]]]:
    """A layout, the number of cached tokens, and chunks that end on block boundaries."""
    layout = draw(LAYOUTS)
    block_size = layout.block_size
    inner = sorted({n * block_size for n in draw(st.lists(st.integers(1, 40), max_size=4))})
    end = (inner[-1] if inner else 0) + draw(st.integers(1, 40 * block_size))
    bounds = [0, *inner, end]
    cached = draw(st.integers(0, end // block_size)) * block_size
    return layout, cached, list(pairwise(bounds))


def regions_of(
    layout: KVLayout,
    cached: int,
    chunks: list[tuple[int, int]],
    min_frame_bytes: int = MIN_FRAME_BYTES,
) -> list[Region]:
    grouper = LayerGrouper(layout, cached, min_frame_bytes)
    return [
        region
        for _, end in chunks
        for layer in range(layout.num_layers)
        for region in grouper.layer_done(layer, end)
    ]


@settings(deadline=None)
@given(prompts())
def test_each_block_of_each_layer_is_sent_once(
    case: tuple[KVLayout, int, list[tuple[int, int]]],
) -> None:
    layout, cached, chunks = case
    block_size, end = layout.block_size, chunks[-1][1]
    sent: Counter[tuple[int, int]] = Counter()
    for region in regions_of(*case):
        assert region.first_token % block_size == 0
        assert region.end % block_size == 0 or region.end == end
        for block in range(region.first_token // block_size, layout.blocks_for(region.end)):
            sent.update((layer, block) for layer in region.layers)
    blocks = range(cached // block_size, layout.blocks_for(end))
    assert sent == Counter((layer, block) for layer in range(layout.num_layers) for block in blocks)


def test_no_frame_is_asked_for_that_a_message_does_not_hold() -> None:
    PrefillSettings(min_frame_bytes=MAX_FRAME_BYTES)
    with pytest.raises(ValidationError, match="min_frame_bytes"):
        PrefillSettings(min_frame_bytes=MAX_FRAME_BYTES + 1)


@settings(deadline=None)
@given(prompts(), st.sampled_from((MIN_FRAME_BYTES, MAX_FRAME_BYTES)))
def test_frames_are_worth_sending_and_not_too_large(
    case: tuple[KVLayout, int, list[tuple[int, int]]], min_frame_bytes: int
) -> None:
    layout, cached, chunks = case
    for region in regions_of(*case, min_frame_bytes):
        num_tokens = region.end - region.first_token
        num_bytes = len(region.layers) * num_tokens * layout.token_bytes
        one_block = layout.block_size * layout.token_bytes
        assert num_bytes <= MAX_FRAME_BYTES + one_block
        assert num_bytes < MAX_MESSAGE_BYTES - 2**16
        # Small ones end a chunk's layers, or are what is left of something that was cut.
        (chunk,) = (each for each in chunks if each[0] < region.end <= each[1])
        whole = len(region.layers) * (chunk[1] - max(chunk[0], cached)) * layout.token_bytes
        assert whole >= min_frame_bytes or region.layers.stop == layout.num_layers


def test_a_region_is_due_no_later_than_with_its_last_layer() -> None:
    layout = KVLayout(num_layers=3, num_kv_heads=1, head_dim=2, block_size=4, dtype="uint16")
    grouper = LayerGrouper(layout, 4)
    assert list(grouper.layer_done(0, 10)) == []
    assert list(grouper.layer_done(1, 10)) == []
    assert list(grouper.layer_done(2, 10)) == [Region(range(3), 4, 10)]


def test_a_cached_chunk_is_not_sent() -> None:
    layout = KVLayout(num_layers=2, num_kv_heads=1, head_dim=2, block_size=4, dtype="uint16")
    assert regions_of(layout, 8, [(0, 8), (8, 9)]) == [Region(range(2), 8, 9)]
    assert regions_of(layout, 8, [(0, 8)]) == []


def test_what_the_sender_had_cached_goes_with_its_first_chunk() -> None:
    """It computes from token 8 on; the receiver has the first four."""
    layout = KVLayout(num_layers=2, num_kv_heads=1, head_dim=2, block_size=4, dtype="uint16")
    assert regions_of(layout, 4, [(8, 12), (12, 14)]) == [
        Region(range(2), 4, 12),
        Region(range(2), 12, 14),
    ]
