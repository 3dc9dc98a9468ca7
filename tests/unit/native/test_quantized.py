"""A product with quantised weights is that of its rounded rows with what the codes count, but for
the sums of groups, which are floats."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_driver import DTYPES, GROUP, multiply, packer, random, unpacked
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.quantization import Quantization
from tandem.native.library import Kernels

# Less than bfloat16 has.
TINY = 1e-37
HALF_UNIT = 2.0**-24
QUANTIZATIONS = (Quantization.INT8, Quantization.INT4)
# One kernel set for all of a test's examples.
examples = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
pytestmark = pytest.mark.usefixtures("threads")


def rounded(rows: Tensor) -> Tensor:
    """Rows [rows, k] as products take them, in float64: each group by its largest, to steps of a
    127th of that."""
    num_rows, k = rows.shape
    padded = np.zeros((num_rows, -(-k // GROUP) * GROUP), np.float32)
    padded[:, :k] = rows.float().numpy()
    groups = padded.reshape(num_rows, -1, GROUP)
    scales: NDArray[np.float32] = np.abs(groups).max(2, keepdims=True) / np.float32(127)
    inverses = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
    items = np.rint(groups * inverses).astype(np.float64) * scales
    return torch.from_numpy(items.reshape(num_rows, -1)[:, :k])


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
    k = 2 * half_k
    weight = random(n, k, dtype=dtype, seed=seed)
    bias = random(n, dtype=dtype, seed=seed + 1) if has_bias else torch.zeros(n, dtype=dtype)
    rows = random(num_rows, k, dtype=dtype, seed=seed + 2)
    rows *= 10.0 ** torch.randint(-3, 4, (num_rows, 1)).to(dtype)
    packed = packer(kernels, quantization).linear(weight, bias if has_bias else None)
    weights, items = unpacked(kernels, packed, k), rounded(rows)
    expected = items @ weights.T + bias
    # Each group adds its integers times the scales, and its offset; then comes the bias. What the
    # codes count may be much more than what is left of them beside the offsets.
    scale = items.abs() @ (weights.abs() + weights.abs().amax(1, keepdim=True)).T + bias.abs()
    roundings = 3 * -(-k // GROUP) + 4
    actual = multiply(kernels, packed, rows)
    assert ((actual - expected).abs() <= roundings * HALF_UNIT * scale + TINY).all()
    assert torch.equal(multiply(kernels, packed, rows[:1]), actual[:1])


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_of_the_largest_integers_fit(
    kernels: Kernels, quantization: Quantization, sign: int
) -> None:
    # In each group one weight at an end of the grid, all others at the other, and items of 127.
    weight = torch.full((40, 96), -sign * 1.0)
    weight[:, ::GROUP] = sign
    packed = packer(kernels, quantization).linear(weight, None)
    rows = torch.stack([torch.ones(96), -torch.ones(96), torch.ones(96) * (-1) ** torch.arange(96)])
    expected = rows.double() @ unpacked(kernels, packed, 96).T
    assert ((multiply(kernels, packed, rows) - expected).abs() <= 1e-4).all()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_no_number_makes_no_number_of_its_row_alone(
    kernels: Kernels, quantization: Quantization
) -> None:
    packed = packer(kernels, quantization).linear(random(40, 96, dtype=torch.float32), None)
    rows = random(5, 96, dtype=torch.float32, seed=1)
    whole = multiply(kernels, packed, rows)
    for value, place in product((torch.nan, torch.inf, -torch.inf), (0, 40, 55, 95)):
        spoiled = rows.clone()
        spoiled[2, place] = value
        actual = multiply(kernels, packed, spoiled)
        assert actual[2].isnan().all()
        others = [0, 1, 3, 4]
        assert torch.equal(actual[others], whole[others])


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_group_of_nothing_counts_nothing(kernels: Kernels, quantization: Quantization) -> None:
    packed = packer(kernels, quantization).linear(random(40, 96, dtype=torch.float32), None)
    rows = random(3, 96, dtype=torch.float32, seed=1)
    rows[1] = 0
    rows[2] = 1e-40  # less than has an inverse
    assert (multiply(kernels, packed, rows)[1:] == 0).all()


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
    error = (unpacked(kernels, packed, k) - weight).abs()
    for errors, weights in zip(error.split(GROUP, 1), weight.split(GROUP, 1), strict=True):
        largest = weights.abs().amax(1)
        step = (weights.amax(1) - weights.amin(1)) / (2**quantization.bits - 1)
        # The scale and the offset are rounded to bfloat16, which has 8 bits.
        assert (errors.amax(1) <= 1.01 * step + largest * 2**-8 + TINY).all()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_weights_on_a_grid_stay_as_they_are(kernels: Kernels, quantization: Quantization) -> None:
    num_steps = 2**quantization.bits - 1
    weight = torch.randint(num_steps + 1, (64, GROUP)).float()
    # Every group has the least and the largest code.
    weight[:, 0], weight[:, -1] = 0, num_steps
    weight = weight * 0.125 - 3
    packed = packer(kernels, quantization).linear(weight, None)
    assert torch.equal(unpacked(kernels, packed, weight.shape[1]), weight.double())


def test_the_embedding_is_not_quantised_and_the_head_less_than_the_rest(kernels: Kernels) -> None:
    weight = random(50, 64, dtype=torch.float32)
    embedding, head = packer(kernels, Quantization.INT4).vocabulary(weight, None)
    assert (embedding.bits, head.bits) == (0, 8)
    plain, same = packer(kernels).vocabulary(weight, None)
    assert plain is same
    assert plain.bits == 0
