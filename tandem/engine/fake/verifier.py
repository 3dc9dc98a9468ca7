"""Reads KV back through the block tables and digests it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tandem.core import noise
from tandem.core.plan import SequenceSlice
from tandem.engine.fake.content import WORDS, weights
from tandem.engine.fake.paging import Span, TokenSlots, locate
from tandem.engine.fake.pool import FakeKVPool

Verification = Literal["full", "incremental"]

CHUNK = 768
"""Tokens read at a time: few enough that the arrays stay in a core's cache."""

MAX_KNOWN = 4096
"""Sequences whose digest is kept; one that was dropped is read again from its first token."""


class Verifier:
    """Digests sequences from what the pool holds, never from the tokens of a plan.

    *full* reads every byte of the context at every step. *incremental* reads each position once,
    O(new tokens), so it does not notice a block that is overwritten, or exchanged for another,
    after that; and it starts again from position 0 whenever a slice does not start where that
    sequence was last digested to. Its sequence ids must not be used twice.
    """

    def __init__(self, pool: FakeKVPool, max_model_len: int, verify: Verification) -> None:
        self._pool = pool
        self._weights = weights(0, max_model_len)
        self._incremental = verify == "incremental"
        # sequence -> (end, digest of [0, end)), the one digested longest ago first.
        self._known: dict[int, tuple[int, int]] = {}

    def digests(self, slices: Sequence[SequenceSlice]) -> list[int]:
        """The digest of positions [0, end) of each slice, whose KV is in the pool by now."""
        if not slices:
            return []
        known = [self._recall(each) for each in slices]
        spans = [
            Span(begin, each.end, each.block_table)
            for each, (begin, _) in zip(slices, known, strict=True)
        ]
        read = self._read(locate(spans, self._pool.layout.block_size))
        sums = zip(known, read.tolist(), strict=True)
        digests = [(before + added) & noise.MASK for (_, before), added in sums]
        if self._incremental:
            self._remember(slices, digests)
        return digests

    def _recall(self, each: SequenceSlice) -> tuple[int, int]:
        """Where to begin reading, and the digest of what comes before."""
        end, digest = self._known.get(each.sequence_id, (0, 0))
        return (end, digest) if end == each.start else (0, 0)

    def _remember(self, slices: Sequence[SequenceSlice], digests: list[int]) -> None:
        for each, digest in zip(slices, digests, strict=True):
            self._known.pop(each.sequence_id, None)
            self._known[each.sequence_id] = (each.end, digest)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def _read(self, tokens: TokenSlots) -> NDArray[np.uint64]:
        """Per span, the sum of weight * word over all its tokens."""
        self._pool.check_written(tokens.slots)
        total = len(tokens.slots)
        sums = np.empty(total * WORDS, np.uint64)
        for begin in range(0, total, CHUNK):
            part = slice(begin, begin + CHUNK)
            words = self._pool.gather(tokens.slots[part])
            words *= self._weights.take(tokens.positions[part], axis=1)
            words = words.reshape(len(words), -1)
            words.sum(axis=0, out=sums[begin * WORDS : begin * WORDS + words.shape[1]])
        return np.add.reduceat(sums, tokens.starts * WORDS)
