"""Prompts are hashed before the worker's lock is taken: a long one takes many milliseconds, in
which no step could begin."""

from __future__ import annotations

from collections.abc import Iterator

from tandem.core.prefix import PrefixChain


class HashedPrefixes:
    """The chains of sequences whose commands are about to be applied, until they are. For the
    thread that applies commands alone."""

    def __init__(self) -> None:
        self._chains: dict[int, PrefixChain] = {}

    def hashing(self, sequence_id: int, chain: PrefixChain, num_tokens: int) -> Iterator[None]:
        """Hash the blocks that a sequence's first `num_tokens` tokens fill, some at each step."""
        self._chains[sequence_id] = chain
        return chain.hashing(num_tokens)

    def take(self, sequence_id: int) -> PrefixChain | None:
        """A sequence's chain; None if it was not hashed."""
        return self._chains.pop(sequence_id, None)

    def clear(self) -> None:
        """The commands that are not applied yet never will be."""
        self._chains.clear()
