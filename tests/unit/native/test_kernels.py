"""The kernels against float64, for each instruction set that this processor has."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from native_driver import DTYPES, assert_close, linear, multiply, packer, random
from torch import Tensor

from tandem.core.quantization import Quantization
from tandem.engine.torch.threads import team
from tandem.models.layers import Linear
from tandem.native import structs
from tandem.native.library import Kernels

pytestmark = pytest.mark.usefixtures("threads")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 2), (33, 72), (331, 172), (96, 576), (130, 1000)])
@pytest.mark.parametrize("num_rows", [1, 5, 14, 15, 64])
def test_products(kernels: Kernels, dtype: torch.dtype, n: int, k: int, num_rows: int) -> None:
    weight, bias = random(n, k, dtype=dtype), random(n, dtype=dtype, seed=1)
    rows = random(num_rows, k, dtype=dtype, seed=2)
    expected = rows.double() @ weight.double().T + bias.double()
    # No more than the sums is rounded: bfloat16 times bfloat16 is exact.
    assert_close(linear(kernels, weight, bias, rows), expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_in_any_batch(kernels: Kernels, dtype: torch.dtype) -> None:
    for n, k in ((64, 1536), (331, 72)):
        weight, rows = random(n, k, dtype=dtype), random(600, k, dtype=dtype, seed=1)
        whole = linear(kernels, weight, None, rows)
        for num_rows in (*range(1, 33), 57, 111, 112, 113, 256, 599):
            first = (num_rows * 37) % (600 - num_rows)
            some = linear(kernels, weight, None, rows[first : first + num_rows])
            assert torch.equal(some, whole[first : first + num_rows]), (n, k, num_rows)


def quantised(items: Tensor) -> tuple[Tensor, Tensor]:
    """What the cache holds of them, [..., head_dim + 4] int8, and what that says, in float64."""
    scales = items.float().abs().amax(-1, keepdim=True) / 127
    counts = (items.float() / scales).round()
    held = torch.cat((counts.to(torch.int8), scales.contiguous().view(torch.int8)), -1)
    return held, counts.double() * scales.double()


@dataclass
class Cached:
    """Sequences in a pool of one layer: the last `new` of `total` tokens are queries."""

    totals: Sequence[int]
    news: Sequence[int]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    window: int
    dtype: torch.dtype
    int8: bool = False

    def __post_init__(self) -> None:
        counts = [-(-total // self.block_size) for total in self.totals]
        blocks = torch.randperm(sum(counts) + 3, generator=torch.Generator().manual_seed(1))
        self.tables = np.full((len(counts), max(counts)), 2**30, np.int32)
        used = 0
        for row, count in zip(self.tables, counts, strict=True):
            row[:count] = blocks[used : used + count].numpy()
            used += count
        # What is no token's is no number.
        shape = (len(blocks), self.block_size, self.num_kv_heads)
        self.keys, self.values = (self._nothing(*shape) for _ in "kv")
        self.rows = np.array([0, *np.cumsum(self.news)])
        self.starts = np.array(self.totals) - np.array(self.news)
        self.queries = random(
            int(self.rows[-1]), self.num_heads, self.head_dim, dtype=self.dtype, seed=9
        )
        self.sequences = [self._fill(index) for index in range(len(counts))]

    def _nothing(self, *shape: int) -> Tensor:
        if self.int8:
            return torch.full((*shape, self.head_dim + 4), -1, dtype=torch.int8)
        return torch.full((*shape, self.head_dim), torch.nan, dtype=self.dtype)

    def _fill(self, index: int) -> tuple[Tensor, Tensor]:
        total = self.totals[index]
        positions = torch.arange(total)
        blocks = torch.from_numpy(self.tables[index].astype(np.int64))[positions // self.block_size]
        shape = (total, self.num_kv_heads, self.head_dim)
        keys = held_keys = random(*shape, dtype=self.dtype, seed=20 + index)
        values = held_values = random(*shape, dtype=self.dtype, seed=40 + index)
        if self.int8:
            (held_keys, keys), (held_values, values) = quantised(keys), quantised(values)
        self.keys[blocks, positions % self.block_size] = held_keys
        self.values[blocks, positions % self.block_size] = held_values
        return keys, values

    def chunk(self, first: int, count: int) -> Cached:
        """The only sequence's new tokens [first, first + count) as a step by themselves."""
        chunk = copy(self)
        chunk.rows = np.array([0, count])
        chunk.starts = self.starts + first
        chunk.queries = self.queries[first : first + count]
        return chunk

    def spoil_key(self, index: int, position: int) -> Tensor:
        """Makes no number of a key of the first KV head. What sees it, [rows, heads]."""
        block = self.tables[index, position // self.block_size]
        # Of int8 this is the scale.
        self.keys[block, position % self.block_size, 0].view(torch.int8)[-4:] = -1
        at = torch.arange(self.starts[index], self.totals[index])
        seen = (at >= position) & (at < position + (self.window or self.totals[index]))
        sees = torch.zeros(self.queries.shape[:2], dtype=torch.bool)
        rows = slice(self.rows[index], self.rows[index + 1])
        sees[rows, : self.num_heads // self.num_kv_heads] = seen.unsqueeze(1)
        return sees

    def expected(self, index: int) -> Tensor:
        """[new, num_heads, head_dim] in float64."""
        keys, values = (
            each.double().repeat_interleave(self.num_heads // self.num_kv_heads, 1)
            for each in self.sequences[index]
        )
        queries = self.queries[self.rows[index] : self.rows[index + 1]].double()
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / self.head_dim**0.5
        at = torch.arange(self.starts[index], self.totals[index]).unsqueeze(1)
        key = torch.arange(self.totals[index])
        hidden = key > at
        if self.window:
            hidden |= key <= at - self.window
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, values)

    def attend(self, kernels: Kernels) -> Tensor:
        layer = structs.Layer(
            window=self.window, keys=self.keys.data_ptr(), values=self.values.data_ptr()
        )
        model = structs.Model(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            block_size=self.block_size,
            layers=ctypes.addressof(layer),
            has_int8_kv=self.int8,
            by_tiles=kernels.has_tiles,
        )
        width = self.num_heads * self.head_dim
        padded = kernels.padded(width) - width
        queries = torch.nn.functional.pad(self.queries.flatten(1), (0, padded))
        output = torch.full_like(queries, torch.nan)
        step = structs.Step(
            team=team(),
            num_rows=len(queries),
            num_sequences=len(self.totals),
            rows=self.rows.ctypes.data,
            starts=self.starts.ctypes.data,
            tables=self.tables.ctypes.data,
            table_width=self.tables.shape[1],
            queries=queries.data_ptr(),
            attended=output.data_ptr(),
        )
        kernels.functions.tandem_attention(
            self.dtype == torch.bfloat16, ctypes.byref(model), ctypes.byref(step), 0
        )
        return output[:, :width].unflatten(1, (self.num_heads, self.head_dim))


DECODE = ((1, 2, 127, 128, 129, 511, 513, 1300), (1,) * 8)
MIXED = ((300, 129, 700, 40), (300, 1, 190, 17))
LONG = ((5000,), (1,))
ONE = ((1030,), (600,))


@pytest.mark.parametrize("int8", [False, True], ids=["", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("lengths", "heads", "head_dim", "block_size", "window"),
    [
        (DECODE, (9, 3), 64, 16, 0),
        (MIXED, (9, 3), 64, 16, 0),
        (MIXED, (4, 4), 80, 32, 0),
        (MIXED, (6, 2), 12, 8, 0),
        (ONE, (4, 2), 24, 4, 0),
        (ONE, (8, 1), 128, 64, 100),
        (MIXED, (32, 2), 96, 16, 24),
        (DECODE, (4, 2), 40, 1, 600),
        (LONG, (2, 1), 64, 16, 0),
        (LONG, (2, 1), 64, 16, 4096),
    ],
)
def test_attention(
    kernels: Kernels,
    dtype: torch.dtype,
    lengths: tuple[Sequence[int], Sequence[int]],
    heads: tuple[int, int],
    head_dim: int,
    block_size: int,
    window: int,
    int8: bool,
) -> None:
    cached = Cached(*lengths, *heads, head_dim, block_size, window, dtype, int8)
    output = cached.attend(kernels)
    for index in range(len(lengths[0])):
        rows = output[cached.rows[index] : cached.rows[index + 1]]
        assert_close(rows, cached.expected(index), dtype)


@pytest.mark.parametrize("int8", [False, True], ids=["", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "head_dim", "window"), [((9, 3), 64, 0), ((8, 1), 80, 300), ((20, 1), 32, 0)]
)
def test_a_token_attends_with_the_same_bits_alone_and_in_any_chunk(
    kernels: Kernels,
    dtype: torch.dtype,
    heads: tuple[int, int],
    head_dim: int,
    window: int,
    int8: bool,
) -> None:
    cached = Cached((620,), (600,), *heads, head_dim, 16, window, dtype, int8)
    whole = cached.attend(kernels)
    for first in (0, 11, 235, 236, 480, 492, 599):
        for most in (1, 2, 5, 16, 40, 120):
            count = min(most, 600 - first)
            some = cached.chunk(first, count).attend(kernels)
            assert torch.equal(some, whole[first : first + count]), (first, count)


@pytest.mark.parametrize("int8", [False, True], ids=["", "int8"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("lengths", "index"), [(DECODE, 7), (MIXED, 2), (ONE, 0)])
@pytest.mark.parametrize("window", [0, 100])
def test_a_key_that_is_no_number_makes_no_number_of_what_sees_it_alone(
    kernels: Kernels,
    dtype: torch.dtype,
    lengths: tuple[Sequence[int], Sequence[int]],
    index: int,
    window: int,
    int8: bool,
) -> None:
    total = lengths[0][index]
    # In the first and the last lane of a vector, tile and range; far from others, and the last.
    for position in (0, 15, 255, 256, 300, 511, 512, total - 1):
        cached = Cached(*lengths, 4, 2, 64, 16, window, dtype, int8)
        whole = cached.attend(kernels)
        sees = cached.spoil_key(index, position)
        output = cached.attend(kernels)
        assert output[sees].isnan().all(), position
        assert torch.equal(output[~sees], whole[~sees]), position


# More than any processor's addresses reach.
TOO_MUCH = 2**44


def test_running_out_of_memory_is_an_error(kernels: Kernels) -> None:
    packed = packer(kernels, Quantization.INT8).linear(random(40, 96, dtype=torch.float32), None)
    rows = random(5, 96, dtype=torch.float32, seed=1)
    whole = multiply(kernels, packed, rows)
    weight = packed.struct()
    with pytest.raises(MemoryError):
        kernels.functions.tandem_linear(
            False, ctypes.byref(team()), ctypes.byref(weight), rows.data_ptr(), TOO_MUCH, None
        )
    # So many rows that each thread takes some, and needs memory, of its own.
    weight.depth = TOO_MUCH
    layer = structs.Layer(qkv=weight, output=weight)
    model = structs.Model(hidden_size=96, layers=ctypes.addressof(layer))
    step = structs.Step(team=team(), num_rows=64)
    for name in ("before_attention", "after_attention"):
        with pytest.raises(MemoryError):
            getattr(kernels.functions, f"tandem_{name}")(
                False, ctypes.byref(model), ctypes.byref(step), 0
            )
    assert torch.equal(multiply(kernels, packed, rows), whole)


def test_gates_alternate_with_what_they_gate(kernels: Kernels) -> None:
    gate, up = (random(50, 8, dtype=torch.float32, seed=seed) for seed in (1, 2))
    rows = random(3, 8, dtype=torch.float32)
    packed = packer(kernels).gated(Linear(gate), Linear(up))
    assert packed.n == 2 * kernels.padded(50)
    panels = multiply(kernels, packed, rows).view(3, -1, 2, kernels.width)
    for index, weight in enumerate((gate, up)):
        found = panels[:, :, index].flatten(1)[:, :50]
        assert_close(found, rows.double() @ weight.double().T, torch.float32)
