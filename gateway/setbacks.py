"""What befalls requests on the way, and costs them time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.stages import AttemptEnd


@dataclass(slots=True)
class Setbacks:
    """How often others needed the blocks of a generation (or of several), with or without an end to
    its attempt; a worker was lost, or the way to it, or a step of it failed; and its KV came
    damaged."""

    num_preemptions: int = 0
    num_losses: int = 0
    num_bad_transfers: int = 0

    @property
    def num_faults(self) -> int:
        """Those that are not how the fleet is meant to work."""
        return self.num_losses + self.num_bad_transfers

    def count(self, why: AttemptEnd) -> None:
        """An attempt ends. What had not begun to be served loses nothing."""
        match why:
            case AttemptEnd.PREEMPTED:
                self.num_preemptions += 1
            case AttemptEnd.WORKER_LOST:
                self.num_losses += 1
            case AttemptEnd.BAD_KV:
                self.num_bad_transfers += 1

    @staticmethod
    def total(of: Iterable[Setbacks]) -> Setbacks:
        """Of several generations together."""
        total = Setbacks()
        for each in of:
            total.num_preemptions += each.num_preemptions
            total.num_losses += each.num_losses
            total.num_bad_transfers += each.num_bad_transfers
        return total
