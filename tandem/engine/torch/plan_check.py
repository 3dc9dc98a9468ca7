"""Plans that would read or write outside of a sequence's own blocks are refused before they run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tandem.core.errors import InvalidRequest, Mismatch
from tandem.core.plan import PENDING, SequenceSlice, StepPlan

# Of fewer numbers Python alone makes shorter work.
FEW = 16


def check_plan(
    plan: StepPlan,
    *,
    vocab_size: int,
    max_model_len: int,
    block_size: int,
    num_blocks: int,
    pending: Collection[int] = (),
) -> None:
    """Raise `InvalidRequest` on token ids outside of the vocabulary, `Mismatch` on a slice that is
    empty, too long for the model, or has no blocks for its tokens. On a GPU such indices would end
    the process's use of the device. `pending` are the sequences whose token may be `PENDING`."""
    for each in plan.slices:
        is_pending = each.token_ids == (PENDING,) and each.sequence_id in pending
        if not is_pending and not _within(each.token_ids, vocab_size):
            raise InvalidRequest(f"{_name(each)}: token ids must be in [0, {vocab_size})")
        if not 0 <= each.start < each.end <= max_model_len:
            raise Mismatch(f"{_name(each)}: must lie in [0, {max_model_len}) and not be empty")
        if len(each.block_table) * block_size < each.end:
            raise Mismatch(f"{_name(each)}: has only {len(each.block_table)} blocks")
        if not _within(each.block_table, num_blocks):
            raise Mismatch(f"{_name(each)}: blocks must be in [0, {num_blocks})")


def _within(values: Sequence[int], bound: int) -> bool:
    if len(values) < FEW:
        return all(0 <= each < bound for each in values)
    array = np.asarray(values)
    return bool(0 <= array.min() <= array.max() < bound)


def _name(each: SequenceSlice) -> str:
    return f"tokens [{each.start}, {each.end}) of sequence {each.sequence_id}"
