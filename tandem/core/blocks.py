"""The blocks of a KV pool: who holds them, and when they are free again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

from tandem.core.errors import ResourceExhausted
from tandem.core.prefix import PrefixChain
from tandem.core.prefix_cache import PrefixCache


class BlockAllocator:
    """Hands out block ids, and counts who holds each.

    The last freed is the first reused: its memory is the likeliest warm. A block that is in the
    cache rests there when its last holder lets go: it counts as free, and is evicted when no other
    is left. What is held is never evicted.
    """

    def __init__(self, num_blocks: int, prefix_caching: bool = True) -> None:
        """Without `prefix_caching` nothing is ever in the cache."""
        self.num_blocks = num_blocks
        self.prefix_caching = prefix_caching
        self.cache = PrefixCache()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_holders = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that could be allocated: those that rest in the cache are among them."""
        return len(self._free) + self.cache.num_resting

    def is_held(self, block: int) -> bool:
        return self._num_holders[block] > 0

    def can_allocate(self, count: int) -> bool:
        return count <= self.num_free

    def check_free(self, count: int) -> None:
        """Raise `ResourceExhausted` if there are fewer."""
        if not self.can_allocate(count):
            raise ResourceExhausted(
                f"{count} KV blocks wanted, {self.num_free} of {self.num_blocks} are free"
            )

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks. Raises `ResourceExhausted`, and takes none, if there are fewer."""
        self.check_free(count)
        blocks = [self._free.pop() if self._free else self.cache.evict() for _ in range(count)]
        for block in blocks:
            self._num_holders[block] = 1
        return blocks

    def num_solely_held(self, blocks: Iterable[int]) -> int:
        """How many of the held blocks become free when their one holder lets go."""
        return sum(self._num_holders[block] == 1 for block in blocks)

    def num_resting(self, blocks: Iterable[int]) -> int:
        """How many of the cached blocks nobody holds: these count as free."""
        return sum(self._num_holders[block] == 0 for block in blocks)

    def cached(self, prefix: PrefixChain, num_tokens: int) -> list[int]:
        """The blocks that the prefix's first `num_tokens` tokens fill, up to the first that is not
        in the cache."""
        num_full = prefix.num_full_blocks(num_tokens) if self.prefix_caching else 0
        return self.cache.find(prefix.between(0, num_full))

    def hold(self, blocks: Iterable[int]) -> None:
        """Take cached blocks, beside whoever holds them."""
        for block in blocks:
            if not self.is_held(block):
                self.cache.wake(block)
            self._num_holders[block] += 1

    def free(self, blocks: Sequence[int]) -> None:
        """Give blocks back, in the order of their tokens: without those before it a cached block is
        of no use, so of a sequence's the last is evicted first. A double free is a bug of the
        caller's, and raised as one."""
        for block in reversed(blocks):
            if not self.is_held(block):
                raise AssertionError(f"block {block} is freed twice")
            self._num_holders[block] -= 1
            if not self.is_held(block):
                if block in self.cache:
                    self.cache.rest(block)
                else:
                    self._free.append(block)


class SequenceBlocks:
    """The blocks of one sequence on one worker, in the order of its tokens.

    Whoever reads or writes them (a step, a frame going out, a frame coming in) does so between
    `begin_access` and `end_access`. `release` is fence, quiesce, free: it refuses new accesses at
    once, and the blocks are free when the last access has ended. So no block ever changes hands
    under a reader or a writer.

    The first `num_shared` blocks may be other sequences' as well, and are never written again: they
    were found in the cache, or published there. `table_id` tells these blocks from all others that
    the sequence has here at other times.
    """

    _table_ids = count(1)

    def __init__(self, allocator: BlockAllocator) -> None:
        self._allocator = allocator
        self.table_id = next(self._table_ids)
        self.ids: list[int] = []
        self.num_shared = 0
        self.released = False
        self._num_accesses = 0
        self._table: tuple[int, ...] = ()

    def start(
        self, prefix: PrefixChain, num_tokens: int, num_blocks: int, num_to_spare: int = 0
    ) -> None:
        """Hold `num_blocks` blocks. The first are those that are cached, up to the first that is
        not, of the blocks that the prefix's first `num_tokens` tokens fill. Raises
        `ResourceExhausted`, and holds none, if not `num_to_spare` others stay free."""
        if self.released or self.ids:
            raise AssertionError("blocks that were held already start")
        allocator = self._allocator
        cached = allocator.cached(prefix, num_tokens)
        num_fresh = num_blocks - len(cached)
        # Whoever waits asks again and again: a refusal is to touch none of them.
        allocator.check_free(num_fresh + allocator.num_resting(cached) + num_to_spare)
        allocator.hold(cached)
        self.ids = [*cached, *allocator.allocate(num_fresh)]
        self.num_shared = len(cached)

    def publish(self, prefix: PrefixChain, num_tokens: int) -> None:
        """Share the blocks that the first `num_tokens` tokens fill, which are final and right."""
        if self.released:
            raise AssertionError("released blocks are published: they may be others' by now")
        num_full = prefix.num_full_blocks(num_tokens) if self._allocator.prefix_caching else 0
        if num_full > self.num_shared:
            blocks = self.ids[self.num_shared : num_full]
            self._allocator.cache.add(blocks, prefix.between(self.num_shared, num_full))
            self.num_shared = num_full

    def grow(self, num_blocks: int) -> None:
        """Hold at least `num_blocks` blocks in all. Raises `ResourceExhausted`."""
        if self.released:
            raise AssertionError("released blocks grow: nobody would free them")
        if len(self.ids) < num_blocks:
            self.ids.extend(self._allocator.allocate(num_blocks - len(self.ids)))

    def table(self, num_blocks: int) -> tuple[int, ...]:
        """The first `num_blocks` of the blocks it holds: one object as long as that is the number,
        or every step would copy the table of a long sequence."""
        if len(self._table) != num_blocks:
            self._table = tuple(self.ids[:num_blocks])
        return self._table

    def begin_access(self) -> bool:
        """Start to read or write; False if the blocks are released."""
        if self.released:
            return False
        self._num_accesses += 1
        return True

    def end_access(self) -> None:
        """End an access that `begin_access` granted."""
        self._num_accesses -= 1
        self._free_if_quiet()

    def release(self) -> None:
        """Give the blocks up. Idempotent."""
        self.released = True
        self._free_if_quiet()

    def _free_if_quiet(self) -> None:
        if self.released and self._num_accesses == 0:
            self._allocator.free(self.ids)
            self.ids = []
            self._table = ()
