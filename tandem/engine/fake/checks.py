"""Checks of a plan that catch the worker's mistakes where they happen."""

from __future__ import annotations

from tandem.core.errors import TandemError
from tandem.core.plan import ScoreSpec, SequenceSlice, StepPlan


def check_plan(plan: StepPlan, *, block_size: int, max_model_len: int, vocab_size: int) -> None:
    """Raise `TandemError`, naming the sequence, if the plan breaks the seam's contract.

    That each block is one of the pool's, and was written before it is read, the pool checks.
    """
    written: set[int] = set()
    for each in plan.slices:
        fault = _fault(each, block_size, max_model_len, vocab_size)
        if fault:
            raise TandemError(f"sequence {each.sequence_id} {fault}")
        for block in each.block_table[each.start // block_size : -(-each.end // block_size)]:
            if block in written:
                raise TandemError(f"block {block} is written twice by step {plan.number}")
            written.add(block)


def _fault(part: SequenceSlice, block_size: int, max_model_len: int, vocab_size: int) -> str | None:
    """What is wrong with a slice by itself."""
    end = part.end
    held = len(part.block_table) * block_size
    if part.start < 0:
        return f"starts at {part.start}"
    if end == part.start:
        return "has no tokens"
    if end > max_model_len:
        return f"ends at {end}, past the model's {max_model_len}"
    if end > held:
        return f"ends at {end}, but its blocks hold {held}"
    if min(part.token_ids) < 0 or max(part.token_ids) >= vocab_size:
        return f"has tokens outside a vocabulary of {vocab_size}"
    return _score_fault(part, part.score, vocab_size) if part.score else None


def _score_fault(part: SequenceSlice, score: ScoreSpec, vocab_size: int) -> str | None:
    """What is wrong with what is asked of its tokens."""
    if not 0 < len(score.targets) <= len(part.token_ids):
        return f"has scores of {len(score.targets)} tokens"
    if min(score.targets) < 0 or max(score.targets) >= vocab_size:
        return f"has scores of tokens outside a vocabulary of {vocab_size}"
    return None
