"""A plain model of what a prefill worker holds: prompts, batches, and what is in each slot of its
pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from test_batch_queue import DESTINATION, LAYOUT, chunk, scores

from prefill_service.prefilling_sequence import PrefillingSequence
from tandem.core.commands import PrefillChunk
from tandem.core.plan import SequenceSlice
from tandem.core.reports import FirstToken, PrefillReport

BLOCK = LAYOUT.block_size


@dataclass(eq=False)
class Prompt:
    """A sequence whose tokens are their positions, of which `num_come` have come, and `num_there`
    are computed or were cached. It `is_over` when that was told, or it `is_removed`."""

    sequence_id: int
    details: dict[str, Any]
    record: PrefillingSequence | None = None
    num_come: int = 0
    num_there: int = 0
    has_started: bool = False
    is_sent: bool = False
    is_over: bool = False
    is_removed: bool = False

    def __post_init__(self) -> None:
        self.length: int = self.details["length"]
        self.salt: bytes = self.details["prefix_salt"]
        self.ends_at_once = self.details["max_tokens"] == 1
        self.scores = scores(1, self.length) if self.details["prompt_logprobs"] else None
        self.reports: list[PrefillReport] = []

    def next_chunk(self, size: int) -> PrefillChunk:
        start, self.num_come = self.num_come, min(self.num_come + size, self.length)
        to = None if self.ends_at_once else DESTINATION
        end = self.num_come
        return chunk(self.sequence_id, start=start, end=end, destination=to, **self.details)

    def check_slice(self, part: SequenceSlice) -> None:
        """These tokens come next."""
        assert part.start == self.num_there
        assert part.token_ids == tuple(range(part.start, part.end))
        assert bool(part.sample) is (part.end == self.length)
        assert part.sample or part.end % BLOCK == 0

    @property
    def num_ends(self) -> int:
        """Reports that say that it is over."""
        going_on = [
            isinstance(each, FirstToken) and each.finish_reason is None for each in self.reports
        ]
        return going_on.count(False)

    def scores_are_known(self) -> None:
        """They are not said again."""
        self.reports = [
            replace(each, prompt_logprobs=None) if isinstance(each, FirstToken) else each
            for each in self.reports
        ]


@dataclass(eq=False)
class Batch:
    chunks: dict[Prompt, range]
    max_tokens: int
    is_done: bool = False

    def waiting(self, unprepared: set[Prompt]) -> set[Prompt]:
        """Who has tokens in it that are yet to compute, and for whom the engine is prepared."""
        return {
            each
            for each, chunk in self.chunks.items()
            if not each.is_over and each.num_there < chunk.stop
            if not (each in unprepared and chunk.stop == each.length)
        }


class Slots:
    """A pool: which token of whose prompts, by their salt, each of its slots has."""

    def __init__(self, num_blocks: int) -> None:
        self._blocks: list[list[object]] = [[None] * BLOCK for _ in range(num_blocks)]

    def write(self, salt: bytes, part: SequenceSlice, is_right: bool) -> None:
        for position in range(part.start, part.end):
            block = self._blocks[part.block_table[position // BLOCK]]
            block[position % BLOCK] = (salt, position) if is_right else None

    def check(self, salt: bytes, table: Sequence[int], num_tokens: int) -> None:
        """A prompt's first tokens are there."""
        found = [self._blocks[table[each // BLOCK]][each % BLOCK] for each in range(num_tokens)]
        assert found == [(salt, each) for each in range(num_tokens)]
