"""What a step computes on a GPU: built on the host, moved in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch.flat_rows import FlatRows, Ints
from tandem.engine.torch.gpu_decoder import GpuRows
from tandem.engine.torch.triton_attention import QueryTiles, queries_of
from tandem.engine.torch.uploads import upload


@dataclass(frozen=True, slots=True)
class GpuInputs:
    """A step's tokens, all slices in one row of rows, the query tiles of single tokens apart from
    those of prompts; and `logit_rows` [num_sampled]."""

    rows: GpuRows
    logit_rows: Tensor

    @classmethod
    def build(cls, plan: StepPlan, block_size: int, group: int, device: torch.device) -> GpuInputs:
        """`group` query heads share a KV head."""
        flat = FlatRows.of(plan)
        tables = _tables(plan.slices, block_size)
        lengths = flat.lengths
        copy = OneCopy(device)
        token_ids = copy.add(flat.token_ids)
        positions = copy.add(flat.positions)
        slots = copy.add(flat.slots(tables, block_size))
        logit_rows = copy.add(flat.logit_rows)
        slice_tables = copy.add(tables)
        groups = [
            TileGroup.cut(flat, np.flatnonzero(chosen), num_queries)
            for chosen, num_queries in (
                (lengths == 1, 1),
                (lengths > 1, queries_of(group)),
            )
            if chosen.any()
        ]
        tiles = [
            (each, [*(copy.add(column) for column in each.columns), slice_tables])
            for each in groups
        ]
        copy.move()
        rows = GpuRows(
            token_ids=copy[token_ids],
            positions=copy[positions],
            slots=copy[slots],
            tiles=[each.moved(*(copy[number] for number in numbers)) for each, numbers in tiles],
        )
        return cls(rows, copy[logit_rows])


@dataclass(frozen=True, slots=True)
class TileGroup:
    """`QueryTiles` that are still on the host: rows, lengths, positions, and whose of the step's
    slices they are. A long prompt has hundreds of tiles and one table, which goes to the device
    once."""

    columns: tuple[Ints, ...]
    num_queries: int

    def moved(
        self, rows: Tensor, lengths: Tensor, positions: Tensor, owners: Tensor, tables: Tensor
    ) -> QueryTiles:
        """With its columns, and the slices' `tables`, on the device."""
        placed = tables.index_select(0, owners)
        return QueryTiles(rows, lengths, positions, placed, self.num_queries)

    @classmethod
    def cut(cls, flat: FlatRows, indices: Ints, num_queries: int) -> TileGroup:
        """The slices `indices`, in tiles of at most `num_queries` tokens."""
        lengths = flat.lengths
        counts = -(-lengths[indices] // num_queries)
        owners = np.repeat(indices, counts)
        offsets = np.concatenate([np.arange(count) for count in counts]) * num_queries
        return cls(
            (
                flat.rows[owners] + offsets,
                np.minimum(lengths[owners] - offsets, num_queries),
                flat.starts[owners] + offsets,
                owners,
            ),
            num_queries,
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
