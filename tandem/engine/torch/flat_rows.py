"""A step's slices in one row of rows: what every runner begins with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem.core.plan import StepPlan

Ints = NDArray[np.int64]


class RowSpans(NamedTuple):
    """Of each slice consecutive rows, or none: slice i has rows `[rows[i], rows[i + 1])`, the first
    at position `starts[i]`."""

    rows: Ints
    starts: Ints

    @classmethod
    def of(cls, lengths: Ints, ends: Ints) -> RowSpans:
        """Of so many rows each, up to these positions."""
        rows = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=rows[1:])
        return cls(rows, ends - lengths)

    @property
    def lengths(self) -> Ints:
        """Rows of each slice."""
        return np.diff(self.rows)


@dataclass(frozen=True, slots=True)
class FlatRows:
    """`token_ids`, `positions` and `owners`, the index of the row's slice, are [num_rows], in the
    order of `spans`.

    Of these `asked` have logits that somebody asks for, None for all: the last layer goes on with
    them alone once it has everyone's KV. They are rows of their own there, `asked_spans`, of which
    `logit_rows` are the last ones of the slices that sample.
    """

    token_ids: Ints
    positions: Ints
    owners: Ints
    spans: RowSpans
    asked: Ints | None
    asked_spans: RowSpans
    logit_rows: Ints

    @classmethod
    def of(cls, plan: StepPlan) -> FlatRows:
        """Requires a plan that has been checked, with at least one token."""
        slices = plan.slices
        lengths = np.array([len(each.token_ids) for each in slices])
        ends = np.array([each.start for each in slices]) + lengths
        spans = asked_spans = RowSpans.of(lengths, ends)
        owners = np.repeat(np.arange(len(slices)), lengths)
        asked = None
        counts = np.array([each.num_logits for each in slices])
        if (counts < lengths).any():
            asked_spans = RowSpans.of(counts, ends)
            skipped = np.cumsum(lengths - counts)
            asked = np.arange(counts.sum()) + np.repeat(skipped, counts)
        num_rows = spans.rows[-1]
        return cls(
            token_ids=np.fromiter(
                chain.from_iterable(each.token_ids for each in slices), np.int64, num_rows
            ),
            positions=np.arange(num_rows) + (spans.starts - spans.rows[:-1])[owners],
            owners=owners,
            spans=spans,
            asked=asked,
            asked_spans=asked_spans,
            logit_rows=asked_spans.rows[1:][[each.sample is not None for each in slices]] - 1,
        )

    def slots(self, tables: NDArray[np.integer], block_size: int) -> Ints:
        """The places of the rows' KV in the pool, `block * block_size + offset`: slice i's blocks
        are `tables[i]`."""
        blocks = tables[self.owners, self.positions // block_size].astype(np.int64, copy=False)
        return blocks * block_size + self.positions % block_size
