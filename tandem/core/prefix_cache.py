"""The blocks of a pool whose contents are known by hash, so that other sequences may use them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tandem.core.prefix import digests

# Of a whole cache: half a message, at 8 bytes each.
MAX_REPORTED = 2**20


@dataclass(frozen=True, slots=True)
class CacheChanges:
    """What a worker has cached, by digests, for its controller. With `whole`, `added` is all that
    is there, and what was known before is void."""

    added: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    whole: bool = False

    @classmethod
    def of(cls, changes: Mapping[bytes, bool]) -> CacheChanges:
        """Hashes that are there now, or are not any more. Takes a millisecond for thousands."""
        added, removed = (
            tuple(digests([each for each, is_there in changes.items() if is_there is wanted]))
            for wanted in (True, False)
        )
        return cls(added, removed)

    @classmethod
    def all_of(cls, hashes: Sequence[bytes]) -> CacheChanges:
        """These are all. Takes some milliseconds where they are a hundred thousand."""
        return cls(added=tuple(digests(hashes)), whole=True)


class PrefixCache:
    """Which block has which hash, and in which order blocks that nobody holds are given up.

    A block is added while it is held. It *rests* when its last holder has let go: it is as good as
    free, but keeps its contents until it is evicted, those first that have rested longest.
    """

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}
        # Not a dict, whose first key takes the longer to find the more before it were deleted.
        self._resting: OrderedDict[int, None] = OrderedDict()
        # Since they were taken: whether a hash is there now.
        self._changes: dict[bytes, bool] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._hashes

    @property
    def num_resting(self) -> int:
        return len(self._resting)

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the leading hashes, up to the first that is not cached."""
        found: list[int] = []
        for block_hash in hashes:
            block = self._blocks.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def add(self, blocks: Iterable[int], hashes: Iterable[bytes]) -> None:
        """Held blocks are full, and final, and these are their hashes. If another block has one
        already, that one stays."""
        there = self._blocks
        new = {each: block for block, each in zip(blocks, hashes, strict=True) if each not in there}
        self._blocks.update(new)
        self._hashes.update(zip(new.values(), new.keys(), strict=True))
        self._changes.update(dict.fromkeys(new, True))

    def rest(self, block: int) -> None:
        """Nobody holds a cached block any more."""
        self._resting[block] = None

    def wake(self, block: int) -> None:
        """A resting block is held again."""
        del self._resting[block]

    def evict(self) -> int:
        """Give up the block that has rested longest, of at least one."""
        block, _ = self._resting.popitem(last=False)
        block_hash = self._hashes.pop(block)
        del self._blocks[block_hash]
        self._changes[block_hash] = False
        return block

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would have any."""
        return bool(self._changes)

    def take_changes(self) -> dict[bytes, bool]:
        """What was added or removed since the last call: whether it is there now."""
        changes, self._changes = self._changes, {}
        return changes

    def take_hashes(self) -> list[bytes]:
        """All that is there; of very much, a part. The changes that led to it are dropped."""
        self._changes = {}
        return list(islice(self._blocks, MAX_REPORTED))
