"""The GPU's attention kernels against float64: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's attention is untested")

from tandem.engine.torch.triton_attention import QueryTiles, attend, queries_of

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
# The interpreter cannot multiply in bfloat16.
DTYPES = [torch.float32, torch.bfloat16 if ON_GPU else torch.float16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
NUM_BLOCKS = 160
Slice = tuple[int, int]


@dataclass
class Case:
    """Random keys and values in scattered blocks, NaN wherever nothing was stored, and queries for
    slices (start, length)."""

    slices: list[Slice]
    heads: tuple[int, int]
    head_dim: int
    block_size: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        num_heads, num_kv_heads = self.heads
        shape = (NUM_BLOCKS, self.block_size, num_kv_heads, self.head_dim)
        self.keys = torch.full(shape, float("nan")).to(self.dtype)
        self.values = self.keys.clone()
        free = random.Random(0).sample(range(NUM_BLOCKS), NUM_BLOCKS)
        self.tables: list[list[int]] = []
        for start, length in self.slices:
            count = -(-(start + length) // self.block_size)
            self.tables.append([free.pop() for _ in range(count)])
            for pool in (self.keys, self.values):
                items = torch.randn(start + length, *shape[2:]).to(self.dtype)
                for index, block in enumerate(self.tables[-1]):
                    part = items[index * self.block_size : (index + 1) * self.block_size]
                    pool[block, : len(part)] = part
        num_rows = sum(length for _, length in self.slices)
        self.q = torch.randn(num_rows, num_heads, self.head_dim).to(self.dtype)

    def attended(self, window: int | None, num_queries: int) -> Tensor:
        rows, lengths, positions, tables = [], [], [], []
        row, width = 0, max(map(len, self.tables))
        for (start, length), table in zip(self.slices, self.tables, strict=True):
            for offset in range(0, length, num_queries):
                rows.append(row + offset)
                lengths.append(min(num_queries, length - offset))
                positions.append(start + offset)
                tables.append([*table, *[0] * (width - len(table))])
            row += length

        def move(values: list[int] | list[list[int]]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=DEVICE)

        placed = move(tables)
        if num_queries == 1:
            # As those of graphs lie.
            placed = placed.T.contiguous().T
        tiles = QueryTiles(move(rows), move(lengths), move(positions), placed, num_queries)
        q, keys, values = (each.to(DEVICE) for each in (self.q, self.keys, self.values))
        out = torch.full_like(q, float("nan"))
        attend(q, keys, values, tiles, window, out)
        return out.cpu()

    def expected(self, window: int | None) -> Tensor:
        """In float64."""
        rows = []
        for (start, length), table in zip(self.slices, self.tables, strict=True):
            keys, values = (pool[table].flatten(0, 1).double() for pool in (self.keys, self.values))
            for position in range(start, start + length):
                first = max(0, position + 1 - window) if window else 0
                rows.append(self._query(len(rows), keys[first : position + 1], values[first:]))
        return torch.stack(rows)

    def _query(self, row: int, keys: Tensor, values: Tensor) -> Tensor:
        group = self.heads[0] // self.heads[1]
        keys = keys.repeat_interleave(group, dim=1)
        values = values[: len(keys)].repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,khd->hk", self.q[row].double(), keys) * self.head_dim**-0.5
        return torch.einsum("hk,khd->hd", scores.softmax(dim=1), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(
    ("slices", "heads", "head_dim", "block_size"),
    [
        ([(0, 1), (17, 1), (255, 1), (256, 1), (513, 1)], (9, 3), 64, 16),
        ([(300, 1), (0, 1)], (4, 4), 96, 32),
        ([(0, 40), (5, 3), (250, 20)], (8, 2), 80, 16),
        ([(0, 70), (290, 30), (40, 1)], (4, 2), 32, 8),
    ],
)
def test_agrees_with_float64(
    slices: list[Slice],
    heads: tuple[int, int],
    head_dim: int,
    block_size: int,
    window: int | None,
    dtype: torch.dtype,
) -> None:
    case = Case(slices, heads, head_dim, block_size, dtype)
    single = all(length == 1 for _, length in slices)
    num_queries = 1 if single else queries_of(heads[0] // heads[1])
    attended = case.attended(window, num_queries).double()
    torch.testing.assert_close(
        attended, case.expected(window), rtol=0, atol=TOLERANCE[dtype], check_dtype=False
    )
