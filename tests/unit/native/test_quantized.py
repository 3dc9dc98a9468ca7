"""A product with quantised weights is the product with what they are rounded to, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_driver import DTYPES, GROUP, linear, multiply, packer, random, unpacked

from tandem.core.quantization import Quantization
from tandem.native.library import Kernels

# Less than bfloat16 has.
TINY = 1e-37
QUANTIZATIONS = (Quantization.INT8, Quantization.INT4)
# One kernel set for all of a test's examples.
examples = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
pytestmark = pytest.mark.usefixtures("threads")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@examples
@given(
    n=st.integers(1, 200),
    half_k=st.integers(1, 300),
    num_rows=st.integers(1, 40),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products(
    kernels: Kernels,
    quantization: Quantization,
    dtype: torch.dtype,
    n: int,
    half_k: int,
    num_rows: int,
    has_bias: bool,
    seed: int,
) -> None:
    weight = random(n, 2 * half_k, dtype=dtype, seed=seed)
    bias = random(n, dtype=dtype, seed=seed + 1) if has_bias else None
    rows = random(num_rows, 2 * half_k, dtype=dtype, seed=seed + 2)
    packed = packer(kernels, quantization).linear(weight, bias)
    factor = dtype if kernels.instructions == "avx512" else torch.float32
    expected = linear(kernels, unpacked(kernels, packed, dtype, factor), bias, rows.to(factor))
    assert torch.equal(multiply(kernels, packed, rows), expected)
    assert torch.equal(multiply(kernels, packed, rows[:1]), expected[:1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_row_has_the_same_bits_in_any_batch(
    kernels: Kernels, quantization: Quantization, dtype: torch.dtype
) -> None:
    for n, k in ((64, 1536), (331, 172)):
        packed = packer(kernels, quantization).linear(random(n, k, dtype=dtype), None)
        rows = random(600, k, dtype=dtype, seed=1)
        whole = multiply(kernels, packed, rows)
        for num_rows in (*range(1, 33), 57, 111, 112, 113, 256, 599):
            first = (num_rows * 37) % (600 - num_rows)
            some = multiply(kernels, packed, rows[first : first + num_rows])
            assert torch.equal(some, whole[first : first + num_rows]), (n, k, num_rows)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@examples
@given(
    k=st.integers(1, 300),
    spread=st.floats(0, 1e3, width=32),
    shift=st.floats(-1e3, 1e3, width=32),
    seed=st.integers(0, 99),
)
def test_a_weight_is_a_step_from_what_it_is_rounded_to(
    kernels: Kernels, quantization: Quantization, k: int, spread: float, shift: float, seed: int
) -> None:
    weight = random(40, k, dtype=torch.float32, seed=seed) * spread + shift
    packed = packer(kernels, quantization).linear(weight, None)
    error = (unpacked(kernels, packed, torch.float32) - weight).abs()
    for errors, weights in zip(error.split(GROUP, 1), weight.split(GROUP, 1), strict=True):
        largest = weights.abs().amax(1)
        step = (weights.amax(1) - weights.amin(1)) / (2**quantization.bits - 1)
        # The scale and the offset are rounded to bfloat16, which has 8 bits.
        assert (errors.amax(1) <= 1.01 * step + largest * 2**-8 + TINY).all()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_weights_on_a_grid_stay_as_they_are(kernels: Kernels, quantization: Quantization) -> None:
    codes = torch.arange(2**quantization.bits).repeat_interleave(8)
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(3))
    # Every group has the least and the largest code.
    weight = codes[order].view(-1, GROUP).float()
    weight[:, 0], weight[:, -1] = 0, 2**quantization.bits - 1
    weight = weight * 0.125 - 3
    packed = packer(kernels, quantization).linear(weight, None)
    assert torch.equal(unpacked(kernels, packed, torch.float32), weight)


def test_the_embedding_is_not_quantised_and_the_head_less_than_the_rest(kernels: Kernels) -> None:
    weight = random(50, 64, dtype=torch.float32)
    embedding, head = packer(kernels, Quantization.INT4).vocabulary(weight, None)
    assert (embedding.bits, head.bits) == (0, 8)
    plain, same = packer(kernels).vocabulary(weight, None)
    assert plain is same
    assert plain.bits == 0
