"""What a worker has to report, and how much of it was handed on."""

from __future__ import annotations

from typing import Generic, TypeVar

ReportT = TypeVar("ReportT")

MAX_SNAPSHOT_LOGPROBS = 2**20
"""Half of what a message may hold, at 8 bytes each."""


class ReportLog(Generic[ReportT]):
    """Reports in their order, numbered 1, 2, 3, ... since the worker's start: so that a controller
    can say which it has. They are taken on the event loop alone, where `last_taken`, the number of
    the last that was, may be read without the lock. `acknowledged` is the last that the controller
    is known to have."""

    def __init__(self) -> None:
        self.last_taken = 0
        self.acknowledged = 0
        self._due: list[ReportT] = []

    def append(self, report: ReportT) -> int:
        """Its number."""
        self._due.append(report)
        return self.last_taken + len(self._due)

    @property
    def num_open(self) -> int:
        """How many the controller may not have."""
        return self.last_taken + len(self._due) - self.acknowledged

    def __bool__(self) -> bool:
        return bool(self._due)

    def take(self) -> list[ReportT]:
        """Those that were not taken yet."""
        due, self._due = self._due, []
        self.last_taken += len(due)
        return due

    def clear(self) -> None:
        """Drop those that were not taken yet: nobody is there to hear them."""
        self._due.clear()
