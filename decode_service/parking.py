"""KV that is kept in the host's memory while other sequences have its blocks.

A preempted sequence goes on in one of two ways: its KV is computed again, wherever there is room,
or it is parked: copied out, and back when there is room here. Which is cheaper is measured: how
long bytes take by the copies made so far, how long a token takes by what the controller says of its
prefill workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from decode_service.held_sequence import HeldSequence
from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.errors import ResourceExhausted
from tandem.core.kv import KVLayout, Plane

# How much the newest copy counts.
WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class KvCopy:
    """The KV of a sequence's first `num_tokens` tokens: per plane, items
    `[num_layers, num_tokens, num_kv_heads, head_items]`, as bytes."""

    num_tokens: int
    planes: dict[Plane, memoryview]


@dataclass(slots=True, eq=False)
class KvMove:
    """A sequence's KV on its way out of `blocks`, or, if there is a `copy` already, into them
    from token `first_token` on, a block's first. It is not `wanted` any more when the sequence has
    ended meanwhile."""

    held: HeldSequence
    blocks: SequenceBlocks
    num_tokens: int
    first_token: int = 0
    copy: KvCopy | None = None
    wanted: bool = True


class Mover(Protocol):
    """Makes the copies, and hands each move back when it is done."""

    def start(self, move: KvMove) -> None:
        """Called under the worker's lock; never waits."""
        ...


@dataclass(slots=True)
class ParkedSequence:
    """The first `num_tokens` tokens have KV: all but the newest. `move` is what is under way;
    `copy` is there from the end of the one move to the end of the other. `num_awaited_blocks` are
    needed to come back: none once they are had. `num_own_blocks` nobody else held when it left."""

    held: HeldSequence
    num_tokens: int
    num_bytes: int
    num_awaited_blocks: int
    num_own_blocks: int
    move: KvMove | None = None
    copy: KvCopy | None = None


class Parking:
    """A decode worker's parked sequences. Called under the worker's lock.

    For `num_awaited_blocks`, which the parked need to come back, no newcomer is let in. It is a sum
    that is kept, since every message to the controller asks for it, and so counts what others hold
    of theirs as well. That keeps nobody out for long: a newcomer for whom there is room beside what
    the parked really need would find them on their way back at the next step.
    """

    def __init__(
        self, layout: KVLayout, allocator: BlockAllocator, max_bytes: int, mover: Mover
    ) -> None:
        """At most `max_bytes` of the host's memory are taken."""
        self._layout = layout
        self._allocator = allocator
        self._max_bytes = max_bytes
        self._mover = mover
        self._parked: dict[int, ParkedSequence] = {}
        self._byte_s = 0.0
        self.num_awaited_blocks = 0
        self.recompute_token_s = 0.0

    def takes(self, held: HeldSequence) -> bool:
        """Whether to park a sequence, rather than to have it computed again. Copies that are not
        measured yet are thought to cost nothing, and less than computing of which nobody has said
        what it costs."""
        num_tokens = held.sequence.length
        num_bytes = self._num_bytes(num_tokens)
        taken = sum(each.num_bytes for each in self._parked.values())
        copies_s = 2 * num_bytes * self._byte_s
        is_cheaper = not self.recompute_token_s or copies_s <= num_tokens * self.recompute_token_s
        return is_cheaper and taken + num_bytes <= self._max_bytes

    def park(self, held: HeldSequence) -> None:
        """Copy a sequence's KV out, that of all its tokens but the newest, which has none yet. Its
        blocks are free when that is done."""
        num_tokens = held.sequence.length - 1
        move = KvMove(held, held.blocks, num_tokens)
        num_blocks = self._layout.blocks_for(held.sequence.length)
        parked = ParkedSequence(
            held,
            num_tokens,
            num_bytes=self._num_bytes(num_tokens),
            num_awaited_blocks=num_blocks,
            num_own_blocks=self._allocator.num_solely_held(held.blocks.ids),
            move=move,
        )
        self._parked[held.sequence.sequence_id] = parked
        self.num_awaited_blocks += num_blocks
        held.blocks.begin_access()
        held.blocks.release()
        self._mover.start(move)

    def bring_back(self, num_to_spare: int) -> None:
        """Begin to copy back what there are blocks for, in the order of their ranks: as long as
        `num_to_spare` others stay free, or it would soon be preempted again."""
        for parked in sorted(self._copied(), key=lambda each: each.held.preemption_order):
            if not self._return(parked, num_to_spare):
                return

    def moved(self, move: KvMove, copy: KvCopy | None, seconds: float) -> HeldSequence | None:
        """A move is over, after so many seconds; without a `copy`, it has failed, or was not wanted
        any more. The sequence if its KV is in its blocks again."""
        move.blocks.end_access()
        parked = self._parked.get(move.held.sequence.sequence_id)
        if copy:
            self._measure(self._num_bytes(move.num_tokens - move.first_token), seconds)
        if parked is None or parked.move is not move:
            return None  # It has ended meanwhile.
        parked.move = None
        parked.copy = copy
        if move.copy is None:
            return None
        del self._parked[move.held.sequence.sequence_id]
        return move.held

    def leave(self, sequence_id: int) -> None:
        """A sequence has ended, or goes on elsewhere."""
        if parked := self._parked.pop(sequence_id, None):
            self._await_no_more(parked)
            if parked.move:
                parked.move.wanted = False

    @property
    def num_leaving_blocks(self) -> int:
        """Blocks that will be free when those have been copied out that are about to be: an
        estimate, of when each was parked. What two of them share counts for neither, and what
        others take of them meanwhile is seen when the copy is done."""
        return sum(
            each.num_own_blocks
            for each in self._parked.values()
            if each.move and not each.move.copy
        )

    @property
    def has_parked(self) -> bool:
        return bool(self._parked)

    def _copied(self) -> Iterator[ParkedSequence]:
        return (each for each in self._parked.values() if each.copy and not each.move)

    def _return(self, parked: ParkedSequence, num_to_spare: int) -> bool:
        """Begin to copy a sequence's KV back, but for what the cache has of it; False if there are
        not enough blocks."""
        held, num_tokens = parked.held, parked.num_tokens
        blocks = SequenceBlocks(self._allocator)
        try:
            blocks.start(held.prefix, num_tokens, parked.num_awaited_blocks, num_to_spare)
        except ResourceExhausted:
            return False
        blocks.begin_access()
        held.blocks = blocks
        self._await_no_more(parked)
        first_token = blocks.num_shared * self._layout.block_size
        parked.move = KvMove(held, blocks, num_tokens, first_token, parked.copy)
        self._mover.start(parked.move)
        return True

    def _await_no_more(self, parked: ParkedSequence) -> None:
        self.num_awaited_blocks -= parked.num_awaited_blocks
        parked.num_awaited_blocks = 0

    def _num_bytes(self, num_tokens: int) -> int:
        return num_tokens * self._layout.token_bytes * self._layout.num_layers * len(Plane)

    def _measure(self, num_bytes: int, seconds: float) -> None:
        if num_bytes:
            byte_s = seconds / num_bytes
            self._byte_s += (WEIGHT if self._byte_s else 1.0) * (byte_s - self._byte_s)
