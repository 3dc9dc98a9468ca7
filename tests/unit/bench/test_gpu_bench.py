"""What `benchmarks/gpu.py` asks of a GPU, as far as it can be told without one."""

from __future__ import annotations

import gpu
import numpy as np

from tandem.engine.torch.block_tables import BlockTables


def test_an_engine_reads_the_blocks_that_a_plan_names() -> None:
    """Also where it keeps the tables of the plans before."""
    rows = np.zeros((64, gpu.MAX_MODEL_LEN // gpu.BLOCK_SIZE), np.int32)
    tables = BlockTables(rows)
    for context in (128, 1024, 2000):
        slices = gpu.plan_of(64, context - 1, 1).slices
        tables.write(slices)
        for row, each in zip(rows, slices, strict=True):
            assert row[: len(each.block_table)].tolist() == list(each.block_table)
