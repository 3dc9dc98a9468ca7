"""Attention of single tokens by one kernel, beside float64 and the kernels that do it one after the
other: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's attention is untested")

from tandem.engine.torch import triton_attention, triton_token_attention
from tandem.engine.torch.gpu_decoder import GpuRows
from tandem.engine.torch.triton_attention import QueryTiles, attend
from tandem.engine.torch.triton_layers import rotate_and_store
from tandem.engine.torch.triton_token_attention import FEW, MANY, Splitting, TokenAttention
from tandem.models.layers import rms_norm
from tandem.models.rope import rotate

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
# The interpreter cannot multiply in bfloat16.
DTYPES = [torch.float32, torch.bfloat16 if ON_GPU else torch.float16]
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}
EPS = 1e-5
NUM_BLOCKS = 160
MAX_POSITION = 1200


@dataclass
class Case:
    """Tokens at some positions, one below 0 for a row that is nobody's; random keys and values of
    the tokens before in scattered blocks, NaN wherever nothing was stored."""

    positions: Sequence[int]
    heads: tuple[int, int]
    head_dim: int
    block_size: int
    dtype: torch.dtype
    window: int | None = None
    has_norm: bool = False
    tables: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        num_heads, num_kv_heads = self.heads
        shape = (NUM_BLOCKS + 1, self.block_size, num_kv_heads, self.head_dim)
        keys = torch.full(shape, float("nan")).to(self.dtype)
        values = keys.clone()
        free = random.Random(0).sample(range(NUM_BLOCKS), NUM_BLOCKS)
        for position in self.positions:
            count = (position + self.block_size) // self.block_size
            self.tables.append([free.pop() for _ in range(count)])
            for pool in (keys, values):
                items = torch.randn(max(0, position), *shape[2:]).to(self.dtype)
                for index, block in enumerate(self.tables[-1]):
                    part = items[index * self.block_size : (index + 1) * self.block_size]
                    pool[block, : len(part)] = part
        self.keys, self.values = keys.to(DEVICE), values.to(DEVICE)
        qkv = torch.randn(len(self.positions), num_heads + 2 * num_kv_heads, self.head_dim)
        self.qkv = qkv.to(self.dtype).to(DEVICE)
        angles = torch.randn(MAX_POSITION, self.head_dim // 2, device=DEVICE)
        cosines, sines = angles.cos(), angles.sin()
        self.angles = torch.cat([cosines, cosines], 1), torch.cat([-sines, sines], 1)
        norm = torch.randn(num_heads + num_kv_heads, self.head_dim).to(self.dtype).to(DEVICE)
        self.norm = norm if self.has_norm else None

    def rows(self) -> GpuRows:
        def move(values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=DEVICE)

        width = max(map(len, self.tables))
        tables = [[*table, *[0] * (width - len(table))] for table in self.tables]
        slots = [
            table[position // self.block_size] * self.block_size + position % self.block_size
            if position >= 0
            else NUM_BLOCKS * self.block_size
            for position, table in zip(self.positions, self.tables, strict=True)
        ]
        positions = move([max(0, position) for position in self.positions])
        lengths = move([int(position >= 0) for position in self.positions])
        numbers = move(range(len(self.positions)))
        # As those of graphs lie.
        placed = move(tables).T.contiguous().T
        tiles = QueryTiles(numbers, lengths, positions, placed, 1)
        return GpuRows(numbers, positions, move(slots), [tiles])

    @property
    def is_someones(self) -> Tensor:
        return torch.tensor([position >= 0 for position in self.positions], device=DEVICE)

    def attended(self, attention: TokenAttention) -> tuple[Tensor, Tensor, Tensor]:
        """What comes of it, [rows, num_heads, head_dim], and the pool's keys and values after."""
        keys, values = self.keys.clone(), self.values.clone()
        before = self.qkv.clone()
        out = attention.attend(
            *(self.qkv.flatten(1), self.angles, self.rows(), self.norm, EPS, keys, values),
            self.window,
            is_chained=False,
        )
        assert self.qkv.equal(before)
        return out.view(len(out), -1, self.head_dim), keys, values

    def one_after_the_other(self) -> tuple[Tensor, Tensor, Tensor]:
        keys, values, qkv, rows = (
            *(self.keys.clone(), self.values.clone(), self.qkv.clone()),
            self.rows(),
        )
        rotate_and_store(
            *(qkv, self.angles, rows.positions, rows.slots, self.norm, EPS, keys, values)
        )
        out = torch.empty_like(qkv[:, : self.heads[0]])
        attend(qkv[:, : self.heads[0]], keys, values, rows.tiles[0], self.window, out)
        return out, keys, values

    def expected(self) -> Tensor:
        """In float64, of what the rows' queries, keys and values are rounded to."""
        num_heads, num_kv_heads = self.heads
        group = num_heads // num_kv_heads
        qk = self.qkv[:, : num_heads + num_kv_heads]
        if self.norm is not None:
            qk = rms_norm(qk, EPS, self.norm)
        positions = self.rows().positions.long()
        turned = rotate(qk, tuple(each[positions].unsqueeze(1) for each in self.angles)).double()
        rows = []
        for row, (position, table) in enumerate(zip(self.positions, self.tables, strict=True)):
            first = max(0, position + 1 - self.window) if self.window else 0
            own = turned[row, num_heads:], self.qkv[row, num_heads + num_kv_heads :].double()
            k, v = (
                torch.cat(
                    [pool[table].flatten(0, 1)[first:position].double(), new[None]]
                ).repeat_interleave(group, dim=1)
                for pool, new in zip((self.keys, self.values), own, strict=True)
            )
            scores = torch.einsum("hd,khd->hk", turned[row, :num_heads], k) * self.head_dim**-0.5
            rows.append(torch.einsum("hk,khd->hd", scores.softmax(dim=1), v))
        return torch.stack(rows)


def attention(case: Case) -> TokenAttention:
    return TokenAttention(DEVICE, len(case.positions), case.heads[1])


def assert_right(case: Case, of: TokenAttention) -> None:
    someones, tolerance = case.is_someones, TOLERANCE[case.dtype]
    out, keys, values = case.attended(of)
    before, stored_keys, stored_values = case.one_after_the_other()
    for actual, expected in ((keys, stored_keys), (values, stored_values)):
        torch.testing.assert_close(
            actual[:NUM_BLOCKS],
            expected[:NUM_BLOCKS],
            equal_nan=True,
            # The sum of a norm is another on the way to the last bit.
            rtol=tolerance if case.has_norm else 0,
            atol=tolerance if case.has_norm else 0,
        )
        assert actual[NUM_BLOCKS].isnan().all(), "stored for rows that are nobody's"
    for reference in (before.double(), case.expected()):
        torch.testing.assert_close(
            out.double()[someones], reference[someones], rtol=tolerance, atol=tolerance
        )
    assert of._counts.eq(0).all(), "the next launch would never be done"


@pytest.fixture(autouse=True)
def interpretable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interpreter, which runs one program after the other, can do in time."""
    monkeypatch.setattr(triton_attention, "SPLIT_PROGRAMS", 8)


@pytest.mark.parametrize(
    ("splitting", "dtype", "window"), [(FEW, DTYPES[0], 50), (MANY, DTYPES[1], None)]
)
@pytest.mark.parametrize(
    ("positions", "heads", "head_dim", "block_size"),
    [
        # Own keys alone; first, in the middle and last of tiles and blocks; rows that are nobody's.
        ([0, 1, 31, 32, 63, -1, 64, 65, -1], (8, 2), 64, 16),
        ([513, 128, 255], (9, 3), 24, 8),
        ([300, 0], (4, 4), 96, 32),
        ([200], (16, 2), 128, 16),
        ([70], (20, 1), 80, 16),
    ],
)
def test_agrees_with_float64_and_stores_the_same_bits(
    positions: list[int],
    heads: tuple[int, int],
    head_dim: int,
    block_size: int,
    splitting: Splitting,
    dtype: torch.dtype,
    window: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FEW", "MANY"):
        monkeypatch.setattr(triton_token_attention, name, replace(splitting, programs=16))
    case = Case(positions, heads, head_dim, block_size, dtype, window)
    assert_right(case, attention(case))


@pytest.mark.parametrize(("head_dim", "dtype"), [(24, DTYPES[0]), (32, DTYPES[1])])
def test_norms_of_queries_and_keys(head_dim: int, dtype: torch.dtype) -> None:
    case = Case([5, 130], (6, 2), head_dim, 16, dtype, has_norm=True)
    assert_right(case, attention(case))


@pytest.mark.parametrize(("splits", "merged"), [(2, 64), (4, 1), (8, 16)])
def test_any_number_of_splits_any_number_of_times(
    splits: int, merged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of them with several tiles; heads that are merged all, one, or two at a time."""
    splitting = Splitting(key_tile=16, num_warps=1, programs=1, most=splits)
    monkeypatch.setattr(triton_token_attention, "FEW", splitting)
    monkeypatch.setattr(triton_token_attention, "MIN_SPLITS", splits)
    monkeypatch.setattr(triton_token_attention, "MERGED_ITEMS", merged)
    case = Case([3, 250], (6, 2), 32, 16, torch.float32)
    of = attention(case)
    for _ in range(2):
        assert_right(case, of)


def test_keys_are_split_where_pairs_are_few() -> None:
    assert [FEW.of(8 * rows) for rows in (1, 2, 4, 8)] == [32, 32, 16, 8]
    assert [MANY.of(8 * rows) for rows in (16, 24, 32, 48, 64)] == [8, 8, 4, 4, 2]
