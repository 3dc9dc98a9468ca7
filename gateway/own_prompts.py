"""The prompts that a decode worker computes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.generation import Generation


class OwnPrompts:
    """Those of one worker, which computes them in the order in which they came. How many of their
    tokens are left is asked of every worker for every prompt, and changes far less often."""

    def __init__(self) -> None:
        self._prompts: dict[int, Generation] = {}
        self._num_left: int | None = 0

    @property
    def num_tokens_left(self) -> int:
        """Tokens that the worker has yet to compute."""
        if self._num_left is None:
            self._num_left = sum(each.num_tokens_left for each in self._prompts.values())
        return self._num_left

    def add(self, generation: Generation) -> None:
        """It is to compute one more."""
        self._prompts[generation.sequence_id] = generation
        self._num_left = None

    def begin(self, generation: Generation, num_cached_tokens: int) -> None:
        """It begins one behind the tokens that it had cached."""
        generation.num_scheduled = num_cached_tokens
        self._num_left = None

    def stepped(self, num_tokens: int) -> None:
        """A step computed so many tokens of them."""
        for generation in self._prompts.values():
            num_own = min(num_tokens, generation.num_tokens_left)
            generation.num_scheduled += num_own
            num_tokens -= num_own
        self._num_left = None

    def discard(self, generation: Generation) -> None:
        """One is computed, or is to be no more; idempotent."""
        if self._prompts.pop(generation.sequence_id, None):
            self._num_left = None

    def __len__(self) -> int:
        return len(self._prompts)
