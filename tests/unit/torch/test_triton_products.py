"""Products of few rows by the GPU's kernel against float64: on a GPU, or else in Triton's
interpreter."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's products are untested")

from tandem.engine.torch.triton_chain import Processors
from tandem.engine.torch.triton_products import (
    DEEP,
    NARROW,
    WIDE,
    Cut,
    FewRows,
    Residual,
    Tiling,
)
from tandem.models.layers import Linear

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
# The interpreter cannot multiply in bfloat16.
DTYPES = [torch.float32, torch.bfloat16 if ON_GPU else torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
EPS = 1e-5
H200 = Processors(132, 227 << 10, can_chain=True)
MARGIN = 64
# Whole tiles and steps; neither; and one that is cut into splits.
SIZES = [(64, 128), (70, 72), (40, 1100)]


def guarded(items: Tensor) -> Tensor:
    """The same between numbers that are none: whoever reads beside it has no number either."""
    margin = torch.full((MARGIN,), float("nan"), dtype=items.dtype)
    memory = torch.cat([margin, items.flatten(), margin]).to(DEVICE)
    return memory[MARGIN:-MARGIN].view(items.shape)


def is_untouched(items: Tensor) -> bool:
    """Whether nothing was written beside a `guarded` one."""
    memory = items._base
    return memory[:MARGIN].isnan().all() and memory[-MARGIN:].isnan().all()


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return guarded(torch.randn(*shape).to(dtype))


def linear(num_outs: int, size: int, dtype: torch.dtype, *, biased: bool) -> Linear:
    weight = guarded((torch.randn(num_outs, size) * size**-0.5).to(dtype))
    return Linear(weight, random(num_outs, dtype=dtype) if biased else None)


def residual(
    rows: int, size: int, norm: Tensor, dtype: torch.dtype, tiling: Tiling = WIDE
) -> Residual:
    """As after some sum: its squares in parts."""
    hidden = random(rows, size, dtype=dtype)
    squares = hidden.float().square().view(rows, -1)
    parts = [part.sum(1) for part in squares.split(tiling.outs, dim=1)]
    scaled = (hidden.float() * norm.float()).to(dtype)
    return Residual(hidden, guarded(scaled.cpu()), guarded(torch.stack(parts, 1).cpu()), EPS)


def exact(x: Tensor, by: Linear) -> Tensor:
    bias = by.bias.double() if by.bias is not None else None
    return functional.linear(x.double(), by.weight.double(), bias)


def normed(x: Residual, norm: Tensor) -> Tensor:
    hidden = x.hidden.double()
    return functional.rms_norm(hidden, hidden.shape[1:], eps=EPS) * norm.double()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("dtype", "sizes", "biased"), product(DTYPES, SIZES, [False, True]))
@pytest.mark.parametrize(
    ("rows", "tiling"), [(1, WIDE), (5, WIDE), (20, WIDE), (5, NARROW), (40, DEEP)]
)
def test_a_norm_and_its_product(
    dtype: torch.dtype, sizes: tuple[int, int], biased: bool, rows: int, tiling: Tiling
) -> None:
    num_outs, size = sizes
    products = FewRows(DEVICE, tiling)
    norm = random(size, dtype=dtype)
    x = residual(rows, size, norm, dtype, tiling)
    by = linear(num_outs, size, dtype, biased=biased)
    expected = exact(normed(x, norm), by)
    for _ in range(2):
        assert_close(products.normed(x, by), expected)
    logits = guarded(torch.zeros(rows, num_outs))
    assert products.normed(x, by, logits) is logits
    assert logits.equal(products.normed(x, by).float())
    assert is_untouched(logits)


@pytest.mark.parametrize(("dtype", "biased"), product(DTYPES, [False, True]))
@pytest.mark.parametrize(("num_outs", "size"), SIZES)
@pytest.mark.parametrize("tiling", [WIDE, NARROW, DEEP])
def test_a_gate(dtype: torch.dtype, num_outs: int, size: int, biased: bool, tiling: Tiling) -> None:
    norm = random(size, dtype=dtype)
    x = residual(5, size, norm, dtype, tiling)
    by = linear(2 * num_outs, size, dtype, biased=biased)
    gate, up = exact(normed(x, norm), by).chunk(2, 1)
    assert_close(FewRows(DEVICE, tiling).gated(x, by), functional.silu(gate) * up)


@pytest.mark.parametrize(("dtype", "biased"), product(DTYPES, [False, True]))
@pytest.mark.parametrize(("num_outs", "size"), SIZES)
@pytest.mark.parametrize("tiling", [WIDE, NARROW, DEEP])
def test_what_is_added_is_ready_for_the_next_norm(
    dtype: torch.dtype, num_outs: int, size: int, biased: bool, tiling: Tiling
) -> None:
    products = FewRows(DEVICE, tiling)
    norm, next_norm = (random(num_outs, dtype=dtype) for _ in range(2))
    x, after = random(5, size, dtype=dtype), residual(5, num_outs, norm, dtype, tiling)
    by, following = (linear(num_outs, each, dtype, biased=biased) for each in (size, num_outs))
    expected = after.hidden.double() + exact(x, by)
    products.add(x, by, after, next_norm)
    assert_close(after.hidden, expected)
    assert all(is_untouched(each) for each in (after.hidden, after.scaled, after.squares))
    assert_close(products.normed(after, following), exact(normed(after, next_norm), following))


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedded_tokens_are_ready_for_the_first_norm(dtype: torch.dtype) -> None:
    products = FewRows(DEVICE, WIDE)
    size = 100
    embedding, norm = random(9, size, dtype=dtype), random(size, dtype=dtype)
    last_tokens = torch.tensor([7, 2], device=DEVICE)
    token_ids = torch.tensor([3, -2, 0, -1], dtype=torch.int32, device=DEVICE)
    x = products.embedded(token_ids, last_tokens, embedding, norm, EPS)
    assert x.hidden.equal(embedding[[3, 2, 0, 7]])
    by = linear(40, size, dtype, biased=False)
    assert_close(products.normed(x, by), exact(normed(x, norm), by))


def test_sums_are_cut_until_all_processors_have_a_part() -> None:
    """Of Llama 3.2 1B: queries, keys and values; output; gate; down; and the vocabulary."""

    def cut(num_outs: int, size: int, *, is_gated: bool = False) -> tuple[int, int]:
        each = Cut.of(H200, WIDE, num_outs, size, step_bytes=20 << 10, is_gated=is_gated)
        return each.tiles, each.splits

    assert cut(3072, 2048) == (48, 4)
    assert cut(2048, 2048) == (32, 4)
    assert cut(8192, 2048, is_gated=True) == (128, 1)
    assert cut(2048, 8192) == (32, 8)
    assert cut(128256, 2048) == (2004, 1)


def test_of_many_rows_more_weights_are_on_their_way() -> None:
    """By the gate's product of 32 and of 64 rows."""

    def stages(tiling: Tiling, rows: int) -> int:
        step_bytes = (2 * tiling.gates + rows) * tiling.step * 2
        return Cut.of(H200, tiling, 8192, 2048, step_bytes, is_gated=True).stages

    assert [stages(WIDE, rows) for rows in (32, 64)] == [2, 2]
    assert [stages(DEEP, rows) for rows in (32, 64)] == [5, 4]


@pytest.mark.parametrize("step_bytes", [20 << 10, 36 << 10, 48 << 10])
@pytest.mark.parametrize("num_outs", [64, 2048, 8192, 1 << 17])
def test_what_is_on_its_way_fits_into_a_processor(num_outs: int, step_bytes: int) -> None:
    for shared_bytes in (99 << 10, 163 << 10, 227 << 10):
        processors = Processors(132, shared_bytes, can_chain=False)
        stages = Cut.of(processors, WIDE, num_outs, 4096, step_bytes, is_gated=False).stages
        assert stages * step_bytes <= shared_bytes
