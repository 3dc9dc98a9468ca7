"""What a step computes, as index tensors: built once a step, used by every layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch.flat_rows import FlatRows, RowSpans
from tandem.engine.torch.uploads import upload
from tandem.models.layers import padded_rows

# Attention is computed over whole tiles of keys, masked. The tile is that of torch's own kernel:
# with it, every product of probabilities and values sums over the same number of keys, in the same
# order, whatever the sequence's length. With shorter tails BLAS splits the sum in other places.
KEY_TILE = 512
# Queries of one tile share their keys. The tiles lie on a grid of positions, so that a prompt does
# not compute much of the masked half of its scores.
QUERY_TILE = 256


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Query tiles of equally many queries and keys, one of a sequence each.

    `rows` [tiles * num_queries] are the queries' rows in the step, `positions`
    [tiles, num_queries] their positions; `blocks` [tiles * blocks per tile] hold the keys of
    positions `[0, num_keys)`, `num_keys` a multiple of `KEY_TILE`.
    """

    rows: Tensor
    positions: Tensor
    blocks: Tensor
    num_keys: int


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A step's tokens, all slices in one row of rows.

    `token_ids` and `positions` [rows] are padded to what the decoder takes; `slots` [num_tokens]
    are the places of the tokens' KV in the pool, `block * block_size + offset`. `asked`,
    `asked_attention` and `logit_rows` [num_sampled] are as in `FlatRows`, rows padded alike.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: tuple[AttentionBatch, ...]
    asked: Tensor | None
    asked_attention: tuple[AttentionBatch, ...]
    logit_rows: Tensor

    @classmethod
    def build(cls, plan: StepPlan, block_size: int, device: torch.device) -> StepInputs:
        """Requires a plan that has been checked, with at least one token."""
        flat = FlatRows.of(plan)
        tables = _padded_tables(plan.slices, block_size)

        def batches(spans: RowSpans) -> tuple[AttentionBatch, ...]:
            # What to add to a token's row to have its position.
            shifts = spans.starts - spans.rows[:-1]
            return tuple(
                AttentionBatch(
                    rows=_move((tile_positions - shifts[indices, None]).reshape(-1), device),
                    positions=_move(tile_positions, device),
                    blocks=_move(tables[indices, : num_keys // block_size].reshape(-1), device),
                    num_keys=num_keys,
                )
                for indices, tile_positions, num_keys in _query_tiles(spans)
            )

        attention = batches(flat.spans)
        return cls(
            token_ids=_move(padded_array(flat.token_ids), device),
            positions=_move(padded_array(flat.positions), device),
            slots=_move(flat.slots(tables, block_size), device),
            attention=attention,
            asked=None if flat.asked is None else _move(padded_array(flat.asked), device),
            asked_attention=attention if flat.asked is None else batches(flat.asked_spans),
            logit_rows=_move(padded_array(flat.logit_rows), device),
        )


def _move(array: NDArray[np.int64], device: torch.device) -> Tensor:
    return upload(torch.from_numpy(array), device)


def padded_array(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """With zeros behind it, as long as what the decoder takes."""
    return np.pad(array, (0, padded_rows(len(array)) - len(array)))


def _padded_tables(slices: Sequence[SequenceSlice], block_size: int) -> NDArray[np.int64]:
    """The block tables as one array, each padded to whole key tiles by its own last block, so that
    what is masked is at least the sequence's own."""
    width = max(_num_keys(each.end) for each in slices) // block_size
    tables = np.empty((len(slices), width), np.int64)
    for row, each in zip(tables, slices, strict=True):
        num_blocks = -(-each.end // block_size)
        row[:num_blocks] = each.block_table[:num_blocks]
        row[num_blocks:] = row[num_blocks - 1]
    return tables


def _num_keys(end: int) -> int:
    return -(-end // KEY_TILE) * KEY_TILE


def _query_tiles(
    spans: RowSpans,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """(indices of slices [tiles], positions of queries [tiles, num_queries], number of keys)."""
    batches: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    ends = spans.starts + spans.lengths
    for index, bounds in enumerate(zip(spans.starts.tolist(), ends.tolist(), strict=True)):
        for start, end in _tile_bounds(*bounds):
            batches[end - start, _num_keys(end)].append((index, start))
    for (num_queries, num_keys), tiles in batches.items():
        indices, starts = np.array(tiles, np.int64).T
        yield indices, starts[:, None] + np.arange(num_queries), num_keys


def _tile_bounds(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, (start // QUERY_TILE + 1) * QUERY_TILE)
        yield start, stop
        start = stop
