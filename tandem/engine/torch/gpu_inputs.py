"""What a step computes on a GPU: built on the host, moved in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch.flat_rows import FlatRows, Ints, RowSpans
from tandem.engine.torch.gpu_decoder import AskedRows, GpuRows
from tandem.engine.torch.triton_attention import QueryTiles, queries_of
from tandem.engine.torch.uploads import upload


@dataclass(frozen=True, slots=True)
class GpuInputs:
    """A step's tokens, all slices in one row of rows, the query tiles of single tokens apart from
    those of prompts; and `logit_rows` [num_sampled], as in `FlatRows`."""

    rows: GpuRows
    logit_rows: Tensor

    @classmethod
    def build(cls, plan: StepPlan, block_size: int, group: int, device: torch.device) -> GpuInputs:
        """`group` query heads share a KV head."""
        flat = FlatRows.of(plan)
        tables = _tables(plan.slices, block_size)
        copy = OneCopy(device)
        token_ids = copy.add(flat.token_ids)
        positions = copy.add(flat.positions)
        slots = copy.add(flat.slots(tables, block_size))
        logit_rows = copy.add(flat.logit_rows)
        slice_tables = copy.add(tables)
        num_queries = queries_of(group)
        tiles = TileGroup.of_all(flat.spans, num_queries, copy)
        asked = None
        if flat.asked is not None:
            asked = copy.add(flat.asked), TileGroup.of_all(flat.asked_spans, num_queries, copy)
        copy.move()

        def moved(groups: Sequence[TileGroup]) -> list[QueryTiles]:
            return [each.moved(copy, copy[slice_tables]) for each in groups]

        rows = GpuRows(
            token_ids=copy[token_ids],
            positions=copy[positions],
            slots=copy[slots],
            tiles=moved(tiles),
            asked=AskedRows(copy[asked[0]], moved(asked[1])) if asked else None,
        )
        return cls(rows, copy[logit_rows])


@dataclass(frozen=True, slots=True)
class TileGroup:
    """`QueryTiles` on their way to the device: the numbers, in a `OneCopy`, of the tiles' rows,
    lengths, positions, and whose of the step's slices they are. A long prompt has hundreds of tiles
    and one table, which goes there once."""

    columns: tuple[int, ...]
    num_queries: int

    @classmethod
    def of_all(cls, spans: RowSpans, num_queries: int, copy: OneCopy) -> list[TileGroup]:
        """Of all rows, single ones of a slice apart from several, which are cut into tiles of at
        most `num_queries`."""
        lengths = spans.lengths
        return [
            cls._cut(spans, np.flatnonzero(chosen), most_queries, copy)
            for chosen, most_queries in ((lengths == 1, 1), (lengths > 1, num_queries))
            if chosen.any()
        ]

    @classmethod
    def _cut(cls, spans: RowSpans, indices: Ints, num_queries: int, copy: OneCopy) -> TileGroup:
        lengths = spans.lengths
        counts = -(-lengths[indices] // num_queries)
        owners = np.repeat(indices, counts)
        offsets = np.concatenate([np.arange(count) for count in counts]) * num_queries
        columns = (
            spans.rows[owners] + offsets,
            np.minimum(lengths[owners] - offsets, num_queries),
            spans.starts[owners] + offsets,
            owners,
        )
        return cls(tuple(copy.add(each) for each in columns), num_queries)

    def moved(self, copy: OneCopy, tables: Tensor) -> QueryTiles:
        """With the slices' `tables` on the device."""
        rows, lengths, positions, owners = (copy[number] for number in self.columns)
        return QueryTiles(
            rows, lengths, positions, tables.index_select(0, owners), self.num_queries
        )


class OneCopy:
    """Arrays of int32 that go to a device in one copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: list[Ints] = []
        self._moved: Sequence[Tensor] = ()

    def add(self, array: Ints) -> int:
        """Its number, to have it back by."""
        self._arrays.append(array)
        return len(self._arrays) - 1

    def move(self) -> None:
        joined = np.concatenate([each.reshape(-1) for each in self._arrays]).astype(np.int32)
        moved = upload(torch.from_numpy(joined), self._device)
        parts = torch.split(moved, [array.size for array in self._arrays])
        self._moved = [
            part.view(array.shape) for part, array in zip(parts, self._arrays, strict=True)
        ]

    def __getitem__(self, number: int) -> Tensor:
        return self._moved[number]


def _tables(slices: Sequence[SequenceSlice], block_size: int) -> Ints:
    """The block tables as one array; what is behind a sequence's end is not looked at."""
    counts = [-(-each.end // block_size) for each in slices]
    tables = np.zeros((len(slices), max(counts)), np.int64)
    for row, each, count in zip(tables, slices, counts, strict=True):
        row[:count] = each.block_table[:count]
    return tables
