"""What the workers have cached of a prompt, as far as they have said: hints, which a mistake in
costs time only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import islice, takewhile

from tandem.core.prefix import PrefixChain, digest
from tandem.core.prefix_cache import CacheChanges


class PromptPrefix:
    """A prompt's full blocks, but for that of its last token, which is always computed; all choices
    of a request share it. How many of them a worker has is looked up again only if what it has
    cached has changed."""

    def __init__(self, token_ids: Sequence[int], block_size: int, salt: bytes) -> None:
        self.block_size = block_size
        self._chain = PrefixChain(token_ids, block_size, salt)
        self._num_blocks = self._chain.num_full_blocks(len(token_ids) - 1)
        self._digests: list[int] = []
        self._found: dict[PrefixIndex, tuple[int, int]] = {}

    def grown(self, token_ids: Sequence[int]) -> PromptPrefix:
        """That of the prompt with more tokens behind it: these are all."""
        prefix = copy(self)
        prefix._chain = self._chain.grown(token_ids)
        prefix._num_blocks = prefix._chain.num_full_blocks(len(token_ids) - 1)
        prefix._digests = list(self._digests)
        prefix._found = {}
        return prefix

    def digests(self) -> Sequence[int]:
        """What names the blocks: no copy, for they may be thousands."""
        if len(self._digests) < self._num_blocks:
            hashes = self._chain.between(len(self._digests), self._num_blocks)
            self._digests += map(digest, hashes)
        return self._digests

    def num_cached_tokens(self, index: PrefixIndex) -> int:
        """Leading tokens that a worker has cached."""
        version, num_tokens = self._found.get(index, (-1, 0))
        if version != index.version:
            num_tokens = index.num_leading(self.digests()) * self.block_size
            self._found[index] = index.version, num_tokens
        return num_tokens


class PrefixIndex:
    """The digests of the blocks that one worker has cached: no more than its pool has. `version`
    is another whenever they are."""

    def __init__(self, max_blocks: int) -> None:
        self.version = 0
        self._max_blocks = max_blocks
        self._digests: dict[int, None] = {}

    def apply(self, changes: CacheChanges) -> None:
        """The worker says what has changed."""
        self.version += 1
        if changes.whole:
            self._digests.clear()
        self._digests.update(dict.fromkeys(changes.added))
        for each in changes.removed:
            self._digests.pop(each, None)
        excess = len(self._digests) - self._max_blocks
        for each in list(islice(self._digests, max(0, excess))):
            del self._digests[each]

    def num_leading(self, digests: Iterable[int]) -> int:
        """How many of the first digests are cached, up to one that is not."""
        return sum(1 for _ in takewhile(self._digests.__contains__, digests))
