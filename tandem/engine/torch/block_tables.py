"""The block tables of a step, in one array that lasts from step to step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import SequenceSlice


class BlockTables:
    """The block tables of a step's slices, a row each.

    Only what has changed is written: of a sequence that goes on, told by its `sequence_id` and
    `table_id`, the blocks by which it has grown. What lies in a row behind its table is left over
    from others.
    """

    def __init__(self, rows: NDArray[np.int32]) -> None:
        """`rows` [most slices, most blocks], in any order in memory, is written in place."""
        self.rows = rows
        self._owners: list[tuple[int, int]] = []
        # Blocks in each owner's row.
        self._counts: list[int] = []

    def write(self, slices: Sequence[SequenceSlice]) -> None:
        """Have the table of slice i in row i, as far as that goes: a sequence may have more blocks
        than a step can look at."""
        owners = [(each.sequence_id, each.table_id) for each in slices]
        if owners != self._owners:
            self._arrange(owners)
        counts, most = self._counts, self.rows.shape[1]
        for row, each in enumerate(slices):
            count = min(len(each.block_table), most)
            if counts[row] < count:
                self.rows[row, counts[row] : count] = each.block_table[counts[row] : count]
                counts[row] = count

    def _arrange(self, owners: list[tuple[int, int]]) -> None:
        """Bring what is known of these owners' tables into their rows."""
        known = {owner: row for row, owner in enumerate(self._owners)}
        sources = [known.get(owner) for owner in owners]
        counts = [0 if source is None else self._counts[source] for source in sources]
        width = max(counts, default=0)
        if width:
            moved = self.rows[[source or 0 for source in sources], :width]
            self.rows[: len(owners), :width] = moved
        self._owners, self._counts = owners, counts
