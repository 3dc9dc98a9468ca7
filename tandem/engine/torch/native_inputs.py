"""What a step computes, as the native kernels read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch.block_tables import BlockTables


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


class NativeInputBuilder:
    """Builds the inputs of one step after the other. The block tables last: what a step costs here
    is a little for each token, and what has changed in the tables, however long these are."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tables = BlockTables(np.zeros((0, 0), np.int32))

    def build(self, plan: StepPlan) -> NativeInputs:
        """Valid until the next call. Requires a plan that has been checked, with at least one
        token."""
        slices, block_size = plan.slices, self._block_size
        lengths = np.array([len(each.token_ids) for each in slices])
        rows = np.zeros(len(slices) + 1, np.int64)
        np.cumsum(lengths, out=rows[1:])
        starts = np.array([each.start for each in slices])
        owners = np.repeat(np.arange(len(slices)), lengths)
        # What to add to a token's row to have its position.
        shifts = starts - rows[:-1]
        positions = np.arange(rows[-1]) + shifts[owners]
        tables = self._write_tables(slices)
        blocks = tables[owners, positions // block_size]
        token_ids = chain.from_iterable(each.token_ids for each in slices)
        return NativeInputs(
            token_ids=np.fromiter(token_ids, np.int64, rows[-1]),
            positions=positions,
            slots=blocks.astype(np.int64) * block_size + positions % block_size,
            rows=rows,
            starts=starts,
            tables=tables,
            logit_rows=rows[1:][[each.sample is not None for each in slices]] - 1,
        )

    def _write_tables(self, slices: Sequence[SequenceSlice]) -> NDArray[np.int32]:
        most_rows, most_blocks = self._tables.rows.shape
        num_blocks = max(len(each.block_table) for each in slices)
        if len(slices) > most_rows or num_blocks > most_blocks:
            shape = _room_for(len(slices), most_rows), _room_for(num_blocks, most_blocks)
            self._tables = BlockTables(np.zeros(shape, np.int32))
        self._tables.write(slices)
        return self._tables.rows[: len(slices)]


def _room_for(count: int, room: int) -> int:
    """As much as there is, or twice what is wanted, so that growing costs little in all."""
    return room if count <= room else 2 * count
