"""What names a block of a prompt's KV: the same on every worker, and in the gateway.

A block's KV is a function of its tokens and of all before them, so a hash chain names it: each
block's SHA-256 covers the hash of the block before it. The chain begins with a salt, so that who
does not share the salt shares no block, and cannot learn by timing what others have asked.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Protocol

SEED = b"tandem prefix 1"
HASH_BYTES = hashlib.sha256().digest_size
DIGEST_BYTES = 8
# A third of a millisecond's.
BLOCKS_AT_ONCE = 256


class TokenIds(Protocol):
    """A sequence's tokens, by ranges of positions: a list, for one."""

    def __getitem__(self, positions: slice, /) -> Sequence[int]: ...


class PrefixChain:
    """The hashes of a sequence's full blocks, each computed when it is first asked for. The
    sequence may grow meanwhile."""

    def __init__(self, token_ids: TokenIds, block_size: int, salt: bytes) -> None:
        self._token_ids = token_ids
        self._block_size = block_size
        self._pack = struct.Struct(f"<{block_size}i").pack
        self._root = hashlib.sha256(SEED + salt).digest()
        self._hashes: list[bytes] = []

    def grown(self, token_ids: TokenIds) -> PrefixChain:
        """That of a sequence which begins with this one: what is hashed stays so."""
        chain = copy(self)
        chain._token_ids = token_ids
        chain._hashes = list(self._hashes)
        return chain

    def hashing(self, num_tokens: int) -> Iterator[None]:
        """Hash the blocks that so many tokens fill, `BLOCKS_AT_ONCE` of them between two steps of
        the iterator: what needs them later finds them there."""
        end = self.num_full_blocks(num_tokens)
        while len(self._hashes) < end:
            for _ in range(min(BLOCKS_AT_ONCE, end - len(self._hashes))):
                self._extend()
            if len(self._hashes) < end:
                yield

    def num_full_blocks(self, num_tokens: int) -> int:
        """How many of its blocks so many tokens fill."""
        return num_tokens // self._block_size

    def between(self, first: int, end: int) -> Iterator[bytes]:
        """The hashes of blocks `[first, end)`, which must be full by now."""
        while len(self._hashes) < first:
            self._extend()
        for index in range(first, end):
            if index == len(self._hashes):
                self._extend()
            yield self._hashes[index]

    def _extend(self) -> None:
        start = len(self._hashes) * self._block_size
        parent = self._hashes[-1] if self._hashes else self._root
        tokens = self._pack(*self._token_ids[start : start + self._block_size])
        self._hashes.append(hashlib.sha256(parent + tokens).digest())


def digest(block_hash: bytes) -> int:
    """What stands for a hash where a mistake costs time only."""
    return int.from_bytes(block_hash[:DIGEST_BYTES], "little")


def digests(hashes: Sequence[bytes]) -> Sequence[int]:
    """As `digest`, of many, in a tenth of the time."""
    # Of bytes in the order that `token_ids` asserts.
    words = array("Q", b"".join(hashes))
    return words[:: HASH_BYTES // DIGEST_BYTES]
