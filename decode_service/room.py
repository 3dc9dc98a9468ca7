"""Blocks for the next tokens of the running sequences, when there are not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from decode_service.held_sequence import HeldSequence
from decode_service.parking import Parking
from tandem.core.blocks import BlockAllocator
from tandem.core.kv import KVLayout


class Room:
    """Decides who runs, who waits and who is preempted. `num_awaited` blocks are what those lack
    that wait: no newcomer gets them."""

    def __init__(self, layout: KVLayout, allocator: BlockAllocator, parking: Parking) -> None:
        self._layout = layout
        self._allocator = allocator
        self._parking = parking
        self.num_awaited = 0

    def fits(self, running: Iterable[HeldSequence]) -> bool:
        """Whether all of them have room for their next tokens."""
        return sum(map(self._num_wanted, running)) <= self._allocator.num_free

    def make(
        self, running: list[HeldSequence], preempt: Callable[[HeldSequence], None]
    ) -> list[HeldSequence]:
        """Those of the running sequences that have room for their next tokens. If not all have, as
        many as must be are preempted, those with the highest rank, and of equals the newest.

        The best never is. It may have to wait: for the blocks of who is being parked, or for those
        of reservations, whose sequences will run, or leave. Alone it always fits.
        """
        self.nobody_waits()
        if self.fits(running):
            return running
        running = sorted(running, key=lambda held: held.preemption_order)
        while len(running) > 1 and not self._will_fit(running):
            preempt(running.pop())
        ready: list[HeldSequence] = []
        num_free = self._allocator.num_free
        for held in running:
            num_wanted = self._num_wanted(held)
            if num_wanted <= num_free:
                num_free -= num_wanted
                ready.append(held)
            else:
                self.num_awaited += num_wanted
        return ready

    def nobody_waits(self) -> None:
        """No running sequence lacks blocks any more."""
        self.num_awaited = 0

    def _will_fit(self, running: Iterable[HeldSequence]) -> bool:
        """Whether they fit when those are gone that are being parked."""
        num_free = self._allocator.num_free + self._parking.num_leaving_blocks
        return sum(map(self._num_wanted, running)) <= num_free

    def _num_wanted(self, held: HeldSequence) -> int:
        num_blocks = self._layout.blocks_for(held.num_stepped_tokens)
        return max(0, num_blocks - len(held.blocks.ids))
