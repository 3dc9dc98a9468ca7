"""Shared blocks are neither lost, nor given out twice, nor read when they are others' by then."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.errors import ResourceExhausted
from tandem.core.prefix import PrefixChain
from tandem.core.prefix_cache import CacheChanges

NUM_BLOCKS = 8
BLOCK_SIZE = 2


class Shared(SequenceBlocks):
    """A sequence's blocks, with its tokens."""

    def __init__(self, allocator: BlockAllocator, tokens: tuple[int, ...]) -> None:
        super().__init__(allocator)
        self.tokens = tokens
        self.prefix = PrefixChain(tokens, BLOCK_SIZE, b"")

    def begin(self, num_blocks: int, num_to_spare: int = 0) -> None:
        self.start(self.prefix, len(self.tokens) - 1, num_blocks, num_to_spare)

    def compute(self) -> None:
        self.publish(self.prefix, len(self.tokens))


class PrefixCacheMachine(RuleBasedStateMachine):
    """Sequences that share what begins alike. The test writes into each block, as an engine would,
    what tokens its KV is of, and looks whether a block that was found holds what it should."""

    sequences = Bundle("sequences")
    accesses = Bundle("accesses")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = BlockAllocator(NUM_BLOCKS)
        self.all: list[Shared] = []
        self.num_accesses: Counter[int] = Counter()
        self.contents: dict[int, tuple[int, ...]] = {}
        self.told: set[int] = set()

    @rule(
        target=sequences,
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=10).map(tuple),
        headroom=st.integers(0, 2),
        num_to_spare=st.integers(0, 2),
    )
    def start(self, tokens: tuple[int, ...], headroom: int, num_to_spare: int) -> object:
        blocks = Shared(self.allocator, tokens)
        free, resting = self.allocator.num_free, list(self.allocator.cache._resting)
        held = self.held_blocks()
        num_blocks = -(-len(tokens) // BLOCK_SIZE) + headroom
        try:
            blocks.begin(num_blocks, num_to_spare)
        except ResourceExhausted:
            assert num_blocks - self.num_shareable(tokens, held) + num_to_spare > free
            assert (blocks.ids, self.allocator.num_free) == ([], free)
            assert list(self.allocator.cache._resting) == resting, "a refusal touched them"
            return multiple()
        assert len(blocks.ids) == num_blocks
        assert self.allocator.num_free >= num_to_spare
        assert blocks.num_shared * BLOCK_SIZE < len(tokens), "the last token is computed"
        for index, block in enumerate(blocks.ids):
            if index < blocks.num_shared:
                assert self.contents[block] == tokens[: (index + 1) * BLOCK_SIZE]
            else:
                assert block not in held, "a held block was evicted"
                self.contents.pop(block, None)
        self.all.append(blocks)
        return blocks

    @rule(blocks=sequences)
    def compute(self, blocks: Shared) -> None:
        if blocks.released:
            return
        num_full = len(blocks.tokens) // BLOCK_SIZE
        for index in range(blocks.num_shared, num_full):
            self.contents[blocks.ids[index]] = blocks.tokens[: (index + 1) * BLOCK_SIZE]
        blocks.compute()
        assert blocks.num_shared == num_full

    @rule(target=accesses, blocks=sequences)
    def begin_access(self, blocks: Shared) -> object:
        if not blocks.begin_access():
            return multiple()
        self.num_accesses[id(blocks)] += 1
        return blocks

    @rule(blocks=consumes(accesses))
    def end_access(self, blocks: Shared) -> None:
        self.num_accesses[id(blocks)] -= 1
        blocks.end_access()

    @rule(blocks=sequences)
    def release(self, blocks: Shared) -> None:
        blocks.release()

    @rule()
    def report(self) -> None:
        changes = CacheChanges.of(self.allocator.cache.take_changes())
        assert not set(changes.added) & set(changes.removed)
        self.told = (self.told | set(changes.added)) - set(changes.removed)
        whole = CacheChanges.all_of(self.allocator.cache.take_hashes())
        assert whole.whole
        assert self.told == set(whole.added)

    def num_shareable(self, tokens: tuple[int, ...], held: Counter[int]) -> int:
        """Held blocks that a sequence would begin with, and so need not be free."""
        prefix = PrefixChain(tokens, BLOCK_SIZE, b"")
        return sum(block in held for block in self.allocator.cached(prefix, len(tokens) - 1))

    def held_blocks(self) -> Counter[int]:
        return Counter(block for blocks in self.all for block in blocks.ids)

    @invariant()
    def blocks_are_conserved(self) -> None:
        held = self.held_blocks()
        allocator, cache = self.allocator, self.allocator.cache
        assert [allocator._num_holders[block] for block in range(NUM_BLOCKS)] == [
            held[block] for block in range(NUM_BLOCKS)
        ]
        free, resting = set(allocator._free), set(cache._resting)
        assert len(allocator._free) == len(free)
        assert not free & resting
        assert free | resting == set(range(NUM_BLOCKS)) - set(held)
        assert allocator.num_free == NUM_BLOCKS - len(held)
        assert all(block in cache for block in resting)
        assert not any(block in cache for block in free)

    @invariant()
    def what_is_released_and_quiet_is_given_back(self) -> None:
        for blocks in self.all:
            quiet = blocks.released and not self.num_accesses[id(blocks)]
            assert bool(blocks.ids) is not quiet

    def teardown(self) -> None:
        for blocks in self.all:
            blocks.release()
            for _ in range(self.num_accesses[id(blocks)]):
                blocks.end_access()
        assert sorted(self.allocator.allocate(NUM_BLOCKS)) == list(range(NUM_BLOCKS))
        assert self.allocator.cache.take_hashes() == []


TestPrefixCacheMachine = PrefixCacheMachine.TestCase
TestPrefixCacheMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def computed(allocator: BlockAllocator, *tokens: int) -> Shared:
    """A sequence that has published its blocks."""
    blocks = Shared(allocator, tokens)
    blocks.begin(-(-len(tokens) // BLOCK_SIZE))
    blocks.compute()
    return blocks


def found(allocator: BlockAllocator, *tokens: int) -> int:
    """Blocks that are cached of some tokens."""
    prefix = PrefixChain(tokens, BLOCK_SIZE, b"")
    return len(allocator.cache.find(prefix.between(0, len(tokens) // BLOCK_SIZE)))


def test_a_prefix_costs_its_blocks_once() -> None:
    allocator = BlockAllocator(6)
    first = computed(allocator, 1, 2, 3, 4, 5)
    second = computed(allocator, 1, 2, 3, 4, 6)
    assert (second.ids[:2], second.num_shared) == (first.ids[:2], 2)
    assert allocator.num_free == 6 - 4
    first.release()
    assert allocator.num_free == 6 - 3


def test_of_a_sequence_the_last_block_is_evicted_first() -> None:
    allocator = BlockAllocator(4)
    computed(allocator, 1, 2, 3, 4, 5, 6, 7, 8).release()
    for num_left in (3, 2, 1, 0):
        allocator.allocate(1)
        assert found(allocator, 1, 2, 3, 4, 5, 6, 7, 8) == num_left


def test_what_was_held_last_is_evicted_last() -> None:
    allocator = BlockAllocator(4)
    old = computed(allocator, 1, 2)
    computed(allocator, 3, 4).release()
    old.release()
    again = Shared(allocator, (3, 4, 5))
    again.begin(2)
    again.release()
    assert allocator.num_free == 4
    allocator.allocate(3)
    assert (found(allocator, 1, 2), found(allocator, 3, 4)) == (0, 1)


def test_free_blocks_are_taken_before_cached_ones() -> None:
    allocator = BlockAllocator(4)
    computed(allocator, 1, 2, 3, 4).release()
    allocator.allocate(2)
    assert found(allocator, 1, 2, 3, 4) == 2


def test_of_two_that_computed_the_same_the_first_is_shared() -> None:
    allocator = BlockAllocator(4)
    first, second = Shared(allocator, (1, 2)), Shared(allocator, (1, 2))
    for each in (first, second):
        each.begin(1)
    for each in (first, second):
        each.compute()
    third = Shared(allocator, (1, 2, 3))
    third.begin(2)
    assert third.ids[0] == first.ids[0] != second.ids[0]
    second.release()
    # Its block is no other's: it is free for good.
    assert len(allocator._free) == 2


def test_what_is_cached_behind_a_gap_is_not_found() -> None:
    """It would be taken for what the gap held."""
    allocator = BlockAllocator(4)
    first, second = Shared(allocator, (1, 2, 3)), Shared(allocator, (1, 2, 3, 4))
    for each in (first, second):
        each.begin(2)
    for each in (first, second):
        each.compute()
    first.release()
    # The one that is free, and then the one that both begin with.
    allocator.allocate(2)
    assert second.ids[1] in allocator.cache
    assert found(allocator, 1, 2, 3, 4) == 0


def test_blocks_that_are_not_published_are_just_freed() -> None:
    """As those of a sequence that has failed."""
    allocator = BlockAllocator(2)
    blocks = Shared(allocator, (1, 2, 3))
    blocks.begin(2)
    blocks.release()
    assert found(allocator, 1, 2) == 0
    assert allocator.cache.num_resting == 0


def test_without_prefix_caching_nothing_is_shared() -> None:
    allocator = BlockAllocator(6, prefix_caching=False)
    computed(allocator, 1, 2, 3, 4)
    second = computed(allocator, 1, 2, 3, 4)
    assert second.num_shared == 0
    assert found(allocator, 1, 2, 3, 4) == 0
    assert allocator.cache.take_changes() == {}


def test_released_blocks_are_not_published() -> None:
    blocks = Shared(BlockAllocator(2), (1, 2))
    blocks.begin(1)
    blocks.release()
    with pytest.raises(AssertionError):
        blocks.compute()
