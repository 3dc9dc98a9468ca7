"""One tenant's queued generations, ordered by the ranks that they were given as they came."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from gateway.generation import Generation

Rank = tuple[float, int]
"""The policy's, and the number of the arrival: no two are equal."""

# A block has at most twice as many. Neither these nor a full queue's blocks take long to add up.
BLOCK_SIZE = 64


@dataclass(slots=True)
class _Block:
    """Neighbours in the order, and the tokens of all of them."""

    ranks: list[Rank] = field(default_factory=list)
    num_tokens: int = 0


class RankedQueue:
    """`num_tokens_left` are those of all prompts that are not thought to be cached. How many come
    before a rank is asked for each request with a deadline, and for those that are refused: it is
    added up by blocks."""

    def __init__(self) -> None:
        self.num_tokens_left = 0
        self._ranks: dict[Generation, Rank] = {}
        self._queued: dict[Rank, tuple[Generation, int]] = {}
        self._blocks: list[_Block] = []

    @property
    def head(self) -> Generation:
        """The first of at least one."""
        return self._queued[self._blocks[0].ranks[0]][0]

    @property
    def last(self) -> Generation:
        """The last of at least one."""
        return self._queued[self._blocks[-1].ranks[-1]][0]

    def rank(self, generation: Generation) -> Rank | None:
        """That of a queued one; None if it is not."""
        return self._ranks.get(generation)

    def push(self, generation: Generation, rank: Rank) -> None:
        num_tokens = generation.num_tokens_left
        self._ranks[generation] = rank
        self._queued[rank] = generation, num_tokens
        place = self._place(rank)
        if place == len(self._blocks):
            # The last one grows, and is the first if there is none.
            place = max(0, place - 1)
        if not self._blocks:
            self._blocks.append(_Block())
        block = self._blocks[place]
        insort(block.ranks, rank)
        self._add(block, num_tokens)
        if len(block.ranks) > 2 * BLOCK_SIZE:
            self._split(place)

    def remove(self, generation: Generation) -> None:
        rank = self._ranks.pop(generation)
        _, num_tokens = self._queued.pop(rank)
        place = self._place(rank)
        block = self._blocks[place]
        del block.ranks[bisect_left(block.ranks, rank)]
        self._add(block, -num_tokens)
        if not block.ranks:
            del self._blocks[place]

    def num_tokens_before(self, rank: Rank) -> int:
        """Of the prompts with lower ranks."""
        place = self._place(rank)
        num_tokens = sum(block.num_tokens for block in self._blocks[:place])
        for block in self._blocks[place : place + 1]:
            lower = block.ranks[: bisect_left(block.ranks, rank)]
            num_tokens += sum(self._queued[each][1] for each in lower)
        return num_tokens

    def _place(self, rank: Rank) -> int:
        """The block that a rank is in, or would be; their number, if it is higher than all."""
        return bisect_left(self._blocks, rank, key=lambda block: block.ranks[-1])

    def _add(self, block: _Block, num_tokens: int) -> None:
        block.num_tokens += num_tokens
        self.num_tokens_left += num_tokens

    def _split(self, place: int) -> None:
        block = self._blocks[place]
        upper = _Block(block.ranks[BLOCK_SIZE:])
        upper.num_tokens = sum(self._queued[each][1] for each in upper.ranks)
        del block.ranks[BLOCK_SIZE:]
        block.num_tokens -= upper.num_tokens
        self._blocks.insert(place + 1, upper)

    def __len__(self) -> int:
        return len(self._ranks)
