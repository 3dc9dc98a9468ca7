"""What a step computes, as the native kernels read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch.block_tables import BlockTables
from tandem.engine.torch.flat_rows import FlatRows


@dataclass(frozen=True, slots=True)
class NativeInputs:
    """A step's tokens; the places of their KV in the pool, `slots` [num_rows]; and each slice's
    blocks, `tables[i]`. Contiguous arrays."""

    flat: FlatRows
    slots: NDArray[np.int64]
    tables: NDArray[np.int32]


class NativeInputBuilder:
    """Builds the inputs of one step after the other. The block tables last: what a step costs here
    is a little for each token, and what has changed in the tables, however long these are."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tables = BlockTables(np.zeros((0, 0), np.int32))

    def build(self, plan: StepPlan) -> NativeInputs:
        """Valid until the next call. Requires a plan that has been checked, with at least one
        token."""
        tables = self._write_tables(plan.slices)
        flat = FlatRows.of(plan)
        return NativeInputs(flat, flat.slots(tables, self._block_size), tables)

    def _write_tables(self, slices: Sequence[SequenceSlice]) -> NDArray[np.int32]:
        most_rows, most_blocks = self._tables.rows.shape
        num_blocks = max(len(each.block_table) for each in slices)
        if len(slices) > most_rows or num_blocks > most_blocks:
            shape = room_for(len(slices), most_rows), room_for(num_blocks, most_blocks)
            self._tables = BlockTables(np.zeros(shape, np.int32))
        self._tables.write(slices)
        return self._tables.rows[: len(slices)]


def room_for(count: int, room: int) -> int:
    """As much as there is, or twice what is wanted, so that growing costs little in all."""
    return room if count <= room else 2 * count
