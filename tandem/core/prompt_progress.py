"""How far a prompt has been computed, and when."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.reports import PromptTimes


@dataclass(slots=True)
class PromptProgress:
    """The KV of `num_computed` tokens is there, computed in `num_steps` steps, the first of which
    began at `start_ns`, or found."""

    num_computed: int = 0
    num_steps: int = 0
    start_ns: int = 0

    def stepped(self, end: int, start_ns: int) -> None:
        """A step that began at `start_ns` has computed it up to the token `end`."""
        self.num_computed = end
        self.num_steps += 1
        self.start_ns = self.start_ns or start_ns

    def times(self, end_ns: int) -> PromptTimes:
        """When it was computed, the last of it by `end_ns`."""
        return PromptTimes(self.start_ns, end_ns, self.num_steps)
