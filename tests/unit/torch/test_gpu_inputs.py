"""What of a step goes to a GPU, and how often."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: a GPU's inputs are untested")

from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch import gpu_inputs
from tandem.engine.torch.gpu_inputs import GpuInputs
from tandem.engine.torch.triton_attention import queries_of

CPU = torch.device("cpu")
BLOCK_SIZE, GROUP = 4, 16


def plan_of(shapes: Sequence[tuple[int, int]]) -> StepPlan:
    """Slices that start at so many tokens and have so many, of blocks that nobody else has."""
    rng = random.Random(0)
    free = rng.sample(range(10_000), sum(-(-sum(each) // BLOCK_SIZE) for each in shapes))
    slices = []
    for number, (start, length) in enumerate(shapes):
        table = tuple(free.pop() for _ in range(-(-(start + length) // BLOCK_SIZE)))
        slices.append(SequenceSlice(number, (1,) * length, start, table, None))
    return StepPlan(1, tuple(slices))


@pytest.mark.parametrize(
    "shapes",
    [
        [(0, 1)],
        [(7, 50)],
        [(3, 1), (0, 9), (12, 1), (8, 30)],
        [(5, 2), (40, 1), (0, 4), (0, 1)],
    ],
)
def test_each_tile_has_its_slices_table(shapes: list[tuple[int, int]]) -> None:
    plan = plan_of(shapes)
    rows = GpuInputs.build(plan, BLOCK_SIZE, GROUP, CPU).rows
    seen = set()
    for group in rows.tiles:
        columns = (group.rows, group.lengths, group.positions)
        for row, length, position, table in zip(
            *(column.tolist() for column in columns), group.tables.tolist(), strict=True
        ):
            tokens = range(position, position + length)
            assert [
                table[each // BLOCK_SIZE] * BLOCK_SIZE + each % BLOCK_SIZE for each in tokens
            ] == (rows.slots[row : row + length].tolist())
            owner = next(each for each in plan.slices if each.block_table[0] == table[0])
            assert table[: len(owner.block_table)] == list(owner.block_table)
            seen.update(range(row, row + length))
        assert {each.dtype for each in (*columns, group.tables)} == {torch.int32}
    assert seen == set(range(len(rows.token_ids)))


def test_a_long_prompts_table_is_uploaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    upload = gpu_inputs.upload

    def counted(host: torch.Tensor, to: torch.device) -> torch.Tensor:
        sizes.append(host.numel())
        return upload(host, to)

    monkeypatch.setattr(gpu_inputs, "upload", counted)
    length = 4000
    num_tiles = -(-length // queries_of(GROUP))
    inputs = GpuInputs.build(plan_of([(0, length)]), BLOCK_SIZE, GROUP, CPU)
    (tiles,) = inputs.rows.tiles
    assert tiles.tables.shape == (num_tiles, length // BLOCK_SIZE)
    # Token, position, slot; a tile's row, length, position, owner; the table.
    assert sizes == [3 * length + 4 * num_tiles + length // BLOCK_SIZE]
