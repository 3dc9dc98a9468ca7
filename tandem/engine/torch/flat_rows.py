"""A step's slices in one row of rows: what every runner begins with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import StepPlan

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FlatRows:
    """`token_ids`, `positions` and `owners`, the index of the row's slice, are [num_rows]; slice i
    has rows `[rows[i], rows[i + 1])`, the first at position `starts[i]`; `logit_rows` are the last
    rows of the slices that sample."""

    token_ids: Ints
    positions: Ints
    owners: Ints
    rows: Ints
    starts: Ints
    logit_rows: Ints

    @classmethod
    def of(cls, plan: StepPlan) -> FlatRows:
        """Requires a plan that has been checked, with at least one token."""
        slices = plan.slices
        lengths = np.array([len(each.token_ids) for each in slices])
        rows = np.zeros(len(slices) + 1, np.int64)
        np.cumsum(lengths, out=rows[1:])
        starts = np.array([each.start for each in slices])
        owners = np.repeat(np.arange(len(slices)), lengths)
        return cls(
            token_ids=np.fromiter(
                chain.from_iterable(each.token_ids for each in slices), np.int64, rows[-1]
            ),
            positions=np.arange(rows[-1]) + (starts - rows[:-1])[owners],
            owners=owners,
            rows=rows,
            starts=starts,
            logit_rows=rows[1:][[each.sample is not None for each in slices]] - 1,
        )

    @property
    def lengths(self) -> Ints:
        """Rows of each slice."""
        return np.diff(self.rows)

    def slots(self, tables: NDArray[np.integer], block_size: int) -> Ints:
        """The places of the rows' KV in the pool, `block * block_size + offset`: slice i's blocks
        are `tables[i]`."""
        blocks = tables[self.owners, self.positions // block_size].astype(np.int64, copy=False)
        return blocks * block_size + self.positions % block_size
