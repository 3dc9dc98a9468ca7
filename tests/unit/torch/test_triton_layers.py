"""The GPU's layer kernels against torch's operations: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's layers are untested")

from tandem.engine.torch.sample_row import NO_TOKEN
from tandem.engine.torch.triton_layers import (
    add_rms_norm,
    embed,
    rotate_and_store,
    silu_and_mul,
)
from tandem.models.layers import rms_norm
from tandem.models.layers import silu_and_mul as plain_silu_and_mul
from tandem.models.rope import rotate

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-5


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE)


def int32(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def test_a_token_below_zero_is_one_of_the_step_before() -> None:
    weight = draw(50, 24)
    last = torch.tensor([7, NO_TOKEN, 9], device=DEVICE)
    rows = embed(int32([3, -1, -3, -2, 49]), last, weight)
    torch.testing.assert_close(rows, weight[torch.tensor([3, 7, 9, 0, 49], device=DEVICE)])


@pytest.mark.parametrize("size", [24, 576, 1280])
def test_add_rms_norm(size: int) -> None:
    hidden, delta, weight = draw(5, size), draw(5, size), draw(size)
    expected = hidden + delta
    torch.testing.assert_close(
        add_rms_norm(hidden.clone(), None, weight, EPS), rms_norm(hidden, EPS, weight)
    )
    normed = add_rms_norm(hidden, delta, weight, EPS)
    torch.testing.assert_close(normed, rms_norm(expected, EPS, weight))
    torch.testing.assert_close(hidden, expected)


@pytest.mark.parametrize("size", [172, 2000])
def test_silu_and_mul(size: int) -> None:
    gate_up = draw(3, 2 * size)
    torch.testing.assert_close(silu_and_mul(gate_up), plain_silu_and_mul(gate_up))


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("num_rows", [1, 3, 37])
@pytest.mark.parametrize("head_dim", [24, 64])
def test_rotate_and_store(head_dim: int, num_rows: int, has_norm: bool) -> None:
    num_heads, num_kv_heads, block_size = 6, 2, 8
    qkv = draw(num_rows, num_heads + 2 * num_kv_heads, head_dim)
    cosines, sines = draw(100, head_dim // 2).repeat(1, 2), draw(100, head_dim // 2)
    tables = cosines, torch.cat([-sines, sines], dim=1)
    positions = torch.randperm(100)[:num_rows].to(DEVICE)
    slots = torch.randperm(12 * block_size)[:num_rows].to(DEVICE)
    norm = draw(num_heads + num_kv_heads, head_dim) if has_norm else None
    qk = qkv[:, : num_heads + num_kv_heads]
    if norm is not None:
        qk = rms_norm(qk, EPS, norm)
    rotations = tables[0][positions].unsqueeze(1), tables[1][positions].unsqueeze(1)
    rotated, stored = rotate(qk, rotations), qkv[:, num_heads + num_kv_heads :].clone()
    keys, values = torch.full(
        (2, 12, block_size, num_kv_heads, head_dim), float("nan"), device=DEVICE
    ).unbind()

    rotate_and_store(qkv, tables, positions.int(), slots.int(), norm, EPS, keys, values)

    torch.testing.assert_close(qkv[:, :num_heads], rotated[:, :num_heads])
    torch.testing.assert_close(keys.flatten(0, 1)[slots], rotated[:, num_heads:])
    torch.testing.assert_close(values.flatten(0, 1)[slots], stored)
    for pool in (keys, values):
        assert pool.isfinite().sum() == num_rows * num_kv_heads * head_dim, "others were written"
