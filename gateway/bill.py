"""What a generation's tenant was charged for its context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bill:
    """The first `num_tokens` of the context are paid for; the first `num_settled` of them whatever
    becomes of this attempt, and the others with `num_charged` tokens: some were cached."""

    num_tokens: int = 0
    num_settled: int = 0
    num_charged: int = 0

    def charge(self, start: int, end: int) -> int:
        """Tokens `[start, end)` are computed: how many of them have to be paid for."""
        num_tokens = max(0, end - max(start, self.num_tokens))
        self.num_tokens = max(self.num_tokens, end)
        self.num_charged += num_tokens
        return num_tokens

    def give_back(self) -> int:
        """What was charged with this attempt is not computed: how many tokens."""
        num_tokens, self.num_charged = self.num_charged, 0
        self.num_tokens = self.num_settled
        return num_tokens
