"""What a step computes on a GPU: built on the host, moved in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch.gpu_decoder import GpuRows
from tandem.engine.torch.triton_attention import QueryTiles, queries_of


@dataclass(frozen=True, slots=True)
class GpuInputs:
    """A step's tokens, all slices in one row of rows, the query tiles of single tokens apart from
    those of prompts; and `logit_rows` [num_sampled]."""

    rows: GpuRows
    logit_rows: Tensor

    @classmethod
    def build(cls, plan: StepPlan, block_size: int, group: int, device: torch.device) -> GpuInputs:
        """`group` query heads share a KV head."""
        slices = plan.slices
        lengths = np.array([len(each.token_ids) for each in slices])
        ends = np.cumsum(lengths)
        first_rows = ends - lengths
        starts = np.array([each.start for each in slices])
        positions = np.arange(plan.num_tokens) + np.repeat(starts - first_rows, lengths)
        tables = _tables(slices, block_size)
        blocks = tables[np.repeat(np.arange(len(slices)), lengths), positions // block_size]
        flat = Flat(device)
        token_ids = flat.add(np.concatenate([np.asarray(each.token_ids) for each in slices]))
        position = flat.add(positions)
        slots = flat.add(blocks * block_size + positions % block_size)
        logit_rows = flat.add(ends[[each.sample is not None for each in slices]] - 1)
        groups = [
            TileGroup.cut(np.flatnonzero(chosen), first_rows, lengths, starts, tables, num_queries)
            for chosen, num_queries in (
                (lengths == 1, 1),
                (lengths > 1, queries_of(group)),
            )
            if chosen.any()
        ]
        tiles = [(each, [flat.add(column) for column in each.columns]) for each in groups]
        flat.move()
        rows = GpuRows(
            token_ids=flat[token_ids],
            positions=flat[position],
            slots=flat[slots],
            tiles=[each.moved(*(flat[number] for number in numbers)) for each, numbers in tiles],
        )
        return cls(rows, flat[logit_rows])


@dataclass(frozen=True, slots=True)
class TileGroup:
    """`QueryTiles` that are still on the host: rows, lengths, positions, tables."""

    columns: tuple[NDArray[np.int64], ...]
    num_queries: int

    def moved(self, rows: Tensor, lengths: Tensor, positions: Tensor, tables: Tensor) -> QueryTiles:
        """With its columns on the device."""
        return QueryTiles(rows, lengths, positions, tables, self.num_queries)

    @classmethod
    def cut(
        cls,
        indices: NDArray[np.int64],
        first_rows: NDArray[np.int64],
        lengths: NDArray[np.int64],
        starts: NDArray[np.int64],
        tables: NDArray[np.int64],
        num_queries: int,
    ) -> TileGroup:
        """The slices `indices`, in tiles of at most `num_queries` tokens."""
        counts = -(-lengths[indices] // num_queries)
        owners = np.repeat(indices, counts)
        offsets = np.concatenate([np.arange(count) for count in counts]) * num_queries
        return cls(
            (
                first_rows[owners] + offsets,
                np.minimum(lengths[owners] - offsets, num_queries),
                starts[owners] + offsets,
                tables[owners],
            ),
            num_queries,
        )


class Flat:
    """Arrays of int32 that go to a device in one copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._arrays: list[NDArray[np.int64]] = []
        self._moved: Sequence[Tensor] = ()

    def add(self, array: NDArray[np.int64]) -> int:
        """Its number, to have it back by."""
        self._arrays.append(array)
        return len(self._arrays) - 1

    def move(self) -> None:
        joined = np.concatenate([each.reshape(-1) for each in self._arrays]).astype(np.int32)
        host = torch.from_numpy(joined)
        if self._device.type == "cuda":
            host = host.pin_memory()
        moved = host.to(self._device, non_blocking=True)
        parts = torch.split(moved, [array.size for array in self._arrays])
        self._moved = [
            part.view(array.shape) for part, array in zip(parts, self._arrays, strict=True)
        ]

    def __getitem__(self, number: int) -> Tensor:
        return self._moved[number]


def _tables(slices: Sequence[SequenceSlice], block_size: int) -> NDArray[np.int64]:
    """The block tables as one array; what is behind a sequence's end is not looked at."""
    counts = [-(-each.end // block_size) for each in slices]
    tables = np.zeros((len(slices), max(counts)), np.int64)
    for row, each, count in zip(tables, slices, counts, strict=True):
        row[:count] = each.block_table[:count]
    return tables
