"""The blocks of a KV pool: who holds them, and when they are free again."""

from __future__ import annotations

from tandem.core.errors import ResourceExhausted


class BlockAllocator:
    """Hands out block ids. The last freed is the first reused: its memory is the likeliest warm."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_free = [True] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    def can_allocate(self, count: int) -> bool:
        return count <= len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks. Raises `ResourceExhausted`, and takes none, if there are fewer."""
        if not self.can_allocate(count):
            raise ResourceExhausted(
                f"{count} KV blocks wanted, {self.num_free} of {self.num_blocks} are free"
            )
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._is_free[block] = False
        return blocks

    def free(self, blocks: list[int]) -> None:
        """Give blocks back. A double free is a bug of the caller's, and raised as one."""
        for block in blocks:
            if self._is_free[block]:
                raise AssertionError(f"block {block} is freed twice")
            self._is_free[block] = True
        self._free.extend(blocks)


class SequenceBlocks:
    """The blocks of one sequence on one worker, in the order of its tokens.

    Whoever reads or writes them (a step, a frame going out, a frame coming in) does so between
    `begin_access` and `end_access`. `release` is fence, quiesce, free: it refuses new accesses at
    once, and the blocks are free when the last access has ended. So no block ever changes hands
    under a reader or a writer.
    """

    def __init__(self, allocator: BlockAllocator) -> None:
        self._allocator = allocator
        self.ids: list[int] = []
        self.released = False
        self._num_accesses = 0

    def can_grow(self, num_blocks: int) -> bool:
        """Whether the sequence could hold `num_blocks` blocks in all."""
        return self._allocator.can_allocate(max(0, num_blocks - len(self.ids)))

    def grow(self, num_blocks: int) -> None:
        """Hold at least `num_blocks` blocks in all. Raises `ResourceExhausted`."""
        if self.released:
            raise AssertionError("released blocks grow: nobody would free them")
        if len(self.ids) < num_blocks:
            self.ids.extend(self._allocator.allocate(num_blocks - len(self.ids)))

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
        if self.released and self._num_accesses == 0 and self.ids:
            self._allocator.free(self.ids)
            self.ids = []
