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
        # Until when those that make way do, in monotonic seconds.
        self._patient_until_s: dict[int, float] = {}
        self._num_left: int | None = 0

    @property
    def num_tokens_left(self) -> int:
        """Tokens that the worker has yet to compute."""
        if self._num_left is None:
            self._num_left = sum(each.num_tokens_left for each in self._prompts.values())
        return self._num_left

    @property
    def num_tokens_behind(self) -> int:
        """Likewise, but for those of the first one that has any: it is under way."""
        lefts = (each.num_tokens_left for each in self._prompts.values())
        return self.num_tokens_left - next(filter(None, lefts), 0)

    def all_make_way(self, now_s: float) -> bool:
        """Whether there are any, and all of them still make way for what runs."""
        is_any_hurried = len(self._patient_until_s) < len(self._prompts)
        return not is_any_hurried and now_s < min(self._patient_until_s.values(), default=0.0)

    def add(self, generation: Generation, patient_until_s: float = 0.0) -> None:
        """It is to compute one more, which makes way for what runs until then."""
        self._prompts[generation.sequence_id] = generation
        if patient_until_s:
            self._patient_until_s[generation.sequence_id] = patient_until_s
        self._num_left = None

    def begin(self, generation: Generation, num_cached_tokens: int) -> None:
        """It begins one behind the tokens that it had cached."""
        generation.num_scheduled = generation.expected_cached_tokens = num_cached_tokens
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
            self._patient_until_s.pop(generation.sequence_id, None)
            self._num_left = None

    def __len__(self) -> int:
        return len(self._prompts)
