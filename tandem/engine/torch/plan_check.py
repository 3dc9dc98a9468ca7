"""Plans that would read or write outside of a sequence's own blocks are refused before they run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tandem.core.errors import InvalidRequest, Mismatch
from tandem.core.plan import PENDING, ScoreSpec, SequenceSlice, StepPlan


class PlanCheck:
    """Checks an engine's plans, one after the other. Of a sequence that goes on from the last one,
    only the blocks are looked at by which it has grown."""

    def __init__(
        self, *, vocab_size: int, max_model_len: int, block_size: int, num_blocks: int
    ) -> None:
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._block_size = block_size
        self._num_blocks = num_blocks
        # Blocks found right in the last plan, by sequence and table.
        self._num_checked: dict[tuple[int, int], int] = {}

    def check(self, plan: StepPlan, pending: Collection[int] = ()) -> None:
        """Raise `InvalidRequest` on token ids outside of the vocabulary, `Mismatch` on a slice that
        is empty, too long for the model, or has no blocks for its tokens. On a GPU such indices
        would end the process's use of the device. `pending` are the sequences whose token may be
        `PENDING`."""
        checked: dict[tuple[int, int], int] = {}
        for each in plan.slices:
            table = each.sequence_id, each.table_id
            self._check(each, self._num_checked.get(table, 0), pending)
            checked[table] = len(each.block_table)
        self._num_checked = checked

    def _check(self, each: SequenceSlice, num_checked: int, pending: Collection[int]) -> None:
        is_pending = each.token_ids == (PENDING,) and each.sequence_id in pending
        if not is_pending and not _within(each.token_ids, self._vocab_size):
            raise InvalidRequest(f"{_name(each)}: token ids must be in [0, {self._vocab_size})")
        if each.score:
            self._check_score(each, each.score)
        end, most, num_blocks = each.end, self._max_model_len, len(each.block_table)
        if not 0 <= each.start < end <= most:
            raise Mismatch(f"{_name(each)}: must lie in [0, {most}) and not be empty")
        if num_blocks * self._block_size < end:
            raise Mismatch(f"{_name(each)}: has only {num_blocks} blocks")
        if num_checked < num_blocks and not _within(
            each.block_table[num_checked:], self._num_blocks
        ):
            raise Mismatch(f"{_name(each)}: blocks must be in [0, {self._num_blocks})")

    def _check_score(self, each: SequenceSlice, score: ScoreSpec) -> None:
        if not 0 < len(score.targets) <= len(each.token_ids):
            raise Mismatch(f"{_name(each)}: has scores of {len(score.targets)} tokens")
        if not _within(score.targets, self._vocab_size):
            raise InvalidRequest(f"{_name(each)}: token ids must be in [0, {self._vocab_size})")


def _within(values: Sequence[int], bound: int) -> bool:
    """Whether all of them, if any, are in [0, bound)."""
    return not values or (min(values) >= 0 and max(values) < bound)


def _name(each: SequenceSlice) -> str:
    return f"tokens [{each.start}, {each.end}) of sequence {each.sequence_id}"
