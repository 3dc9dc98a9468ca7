"""Blocks are neither lost nor given out twice, whatever is done in whatever order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.errors import ResourceExhausted
from tandem.core.prefix import PrefixChain

NUM_BLOCKS = 12


class AllocatorMachine(RuleBasedStateMachine):
    """Sequences that grow, are accessed and released, against what the test itself counts."""

    sequences = Bundle("sequences")
    accesses = Bundle("accesses")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = BlockAllocator(NUM_BLOCKS)
        self.all: list[SequenceBlocks] = []
        self.num_accesses: Counter[int] = Counter()
        self.held: dict[int, list[int]] = {}

    @rule(target=sequences)
    def new(self) -> SequenceBlocks:
        blocks = SequenceBlocks(self.allocator)
        self.all.append(blocks)
        self.held[id(blocks)] = []
        return blocks

    @rule(blocks=sequences, count=st.integers(0, NUM_BLOCKS + 2))
    def grow(self, blocks: SequenceBlocks, count: int) -> None:
        if blocks.released:
            return
        before, free = list(blocks.ids), self.allocator.num_free
        if count - len(before) <= free:
            blocks.grow(count)
            assert len(blocks.ids) == max(count, len(before))
        else:
            with pytest.raises(ResourceExhausted):
                blocks.grow(count)
            assert self.allocator.num_free == free
        assert blocks.ids[: len(before)] == before
        self.held[id(blocks)] = list(blocks.ids)

    @rule(target=accesses, blocks=sequences)
    def begin_access(self, blocks: SequenceBlocks) -> object:
        granted = blocks.begin_access()
        assert granted is not blocks.released
        if not granted:
            return multiple()
        self.num_accesses[id(blocks)] += 1
        return blocks

    @rule(blocks=consumes(accesses))
    def end_access(self, blocks: SequenceBlocks) -> None:
        self.num_accesses[id(blocks)] -= 1
        blocks.end_access()

    @rule(blocks=sequences)
    def release(self, blocks: SequenceBlocks) -> None:
        blocks.release()
        assert blocks.released

    @precondition(lambda self: self.allocator.num_free)
    @rule()
    def a_block_that_is_free_is_not_freed_again(self) -> None:
        (block,) = self.allocator.allocate(1)
        self.allocator.free([block])
        with pytest.raises(AssertionError):
            self.allocator.free([block])

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        for blocks in self.all:
            quiet = blocks.released and not self.num_accesses[id(blocks)]
            assert blocks.ids == ([] if quiet else self.held[id(blocks)])
        held = Counter(block for blocks in self.all for block in blocks.ids)
        assert all(count == 1 for count in held.values())
        assert all(0 <= block < NUM_BLOCKS for block in held)
        assert self.allocator.num_free == NUM_BLOCKS - len(held)

    def teardown(self) -> None:
        for blocks in self.all:
            blocks.release()
            for _ in range(self.num_accesses[id(blocks)]):
                blocks.end_access()
        assert self.allocator.num_free == NUM_BLOCKS
        assert sorted(self.allocator.allocate(NUM_BLOCKS)) == list(range(NUM_BLOCKS))


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_refusal_takes_nothing() -> None:
    allocator = BlockAllocator(3)
    allocator.allocate(2)
    assert not allocator.can_allocate(2)
    with pytest.raises(ResourceExhausted, match="2 KV blocks wanted, 1 of 3"):
        allocator.allocate(2)
    assert allocator.num_free == 1


def test_the_last_freed_is_the_first_reused() -> None:
    allocator = BlockAllocator(4)
    first = allocator.allocate(2)
    allocator.free(first)
    assert set(allocator.allocate(2)) == set(first)


def test_released_blocks_do_not_grow() -> None:
    """They would never be freed."""
    allocator = BlockAllocator(4)
    blocks = SequenceBlocks(allocator)
    blocks.grow(1)
    blocks.release()
    with pytest.raises(AssertionError):
        blocks.grow(2)
    assert allocator.num_free == 4


@pytest.mark.parametrize("are_released", [False, True])
def test_blocks_that_are_held_or_released_do_not_start(are_released: bool) -> None:
    """Those that they have, or would have, would never be freed."""
    allocator = BlockAllocator(4)
    blocks = SequenceBlocks(allocator)
    if are_released:
        blocks.release()
    else:
        blocks.grow(1)
    num_free = allocator.num_free
    with pytest.raises(AssertionError):
        blocks.start(PrefixChain((), 4, b""), 0, 1)
    assert allocator.num_free == num_free
