"""The stage between a sequence's arrival and its first step: what takes too long for a step is done
there. At present that is compiling its grammar."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """A sequence for which the engine is to be prepared. It is told from every other, even one of
    the same sequence id under another controller. `request_id` is for the log."""

    sequence_id: int
    params: SamplingParams
    request_id: str = ""


class Preparations:
    """The sequences of a role's state that are not prepared yet. They hold their blocks and take
    their KV, but are left out of steps; others pass them meanwhile."""

    def __init__(self) -> None:
        self._pending: dict[int, Preparation] = {}
        self._due: list[Preparation] = []

    def arrive(self, sequence_id: int, params: SamplingParams, request_id: str) -> None:
        """A sequence has come. Most need no preparation."""
        if params.grammar is not None:
            preparation = Preparation(sequence_id, params, request_id)
            self._pending[sequence_id] = preparation
            self._due.append(preparation)

    def take_due(self) -> list[Preparation]:
        """Those that have come since the last call, and have not left."""
        due, self._due = self._due, []
        return [each for each in due if self.is_wanted(each)]

    def is_wanted(self, preparation: Preparation) -> bool:
        """Whether its sequence is still there, and waits for it."""
        return self._pending.get(preparation.sequence_id) is preparation

    def is_pending(self, sequence_id: int) -> bool:
        return sequence_id in self._pending

    def done(self, preparation: Preparation) -> bool:
        """A preparation has ended, this way or that. False if its sequence has left meanwhile."""
        if not self.is_wanted(preparation):
            return False
        del self._pending[preparation.sequence_id]
        return True

    def leave(self, sequence_id: int) -> None:
        """A sequence has ended, or was removed."""
        self._pending.pop(sequence_id, None)
