"""What a step computes, as the native kernels read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import SequenceSlice, StepPlan


@dataclass(frozen=True, slots=True)
class NativeInputs:
    """A step's tokens, all slices in one row of rows.

    `token_ids`, `positions` and `slots` (`block * block_size + offset`, the place of the token's
    KV) are [num_rows]; slice i has rows `[rows[i], rows[i + 1])`, the first at position
    `starts[i]`, and its blocks in `tables[i]`; `logit_rows` are the last rows of the slices that
    sample. Contiguous arrays of int64, `tables` of int32.
    """

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    tables: NDArray[np.int32]
    logit_rows: NDArray[np.int64]

    @classmethod
    def build(cls, plan: StepPlan, block_size: int) -> NativeInputs:
        """Requires a plan that `check_plan` accepts, with at least one token."""
        slices = plan.slices
        lengths = np.array([len(each.token_ids) for each in slices])
        rows = np.zeros(len(slices) + 1, np.int64)
        np.cumsum(lengths, out=rows[1:])
        starts = np.array([each.start for each in slices])
        # What to add to a token's row to have its position.
        shifts = np.repeat(starts - rows[:-1], lengths)
        positions = np.arange(rows[-1]) + shifts
        tables = _tables(slices, block_size)
        blocks = tables[np.repeat(np.arange(len(slices)), lengths), positions // block_size]
        return cls(
            token_ids=np.concatenate([np.asarray(each.token_ids, np.int64) for each in slices]),
            positions=positions,
            slots=blocks.astype(np.int64) * block_size + positions % block_size,
            rows=rows,
            starts=starts,
            tables=tables,
            logit_rows=rows[1:][[each.sample is not None for each in slices]] - 1,
        )


def _tables(slices: Sequence[SequenceSlice], block_size: int) -> NDArray[np.int32]:
    counts = [-(-each.end // block_size) for each in slices]
    tables = np.zeros((len(slices), max(counts)), np.int32)
    for row, each, count in zip(tables, slices, counts, strict=True):
        row[:count] = each.block_table[:count]
    return tables
