"""KV in int8: what a step writes, and who takes it. Attention over it: `test_kernels.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kv_items import read_kv
from numpy.typing import NDArray
from torch_driver import Driver, Row, kernels_in_use

from tandem.core.kv import Plane
from tandem.native.library import INSTRUCTIONS

TOKENS = [7, 11, 300, 2, 2, 90, 41]
INT8 = {"kv_cache_dtype": "int8"}


def first_layer(driver: Driver, row: Row, plane: Plane) -> bytes:
    """Its KV: no attention has had a part in it."""
    return bytes(read_kv(driver.engine.pool, plane, range(1), row.block_table, row.num_computed))


def said(driver: Driver, raw: bytes) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The items [tokens, heads, head_dim] and the scales [tokens, heads, 1]."""
    layout = driver.engine.pool.layout
    held = np.frombuffer(raw, np.int8).reshape(-1, layout.num_kv_heads, layout.head_items)
    items, scales = np.split(held, [layout.head_dim], axis=2)
    return items, np.ascontiguousarray(scales).view(np.float32)


@pytest.mark.parametrize("kernels", INSTRUCTIONS)
@pytest.mark.parametrize("plane", Plane)
def test_a_step_writes_the_nearest_of_255_steps(
    llama_path: Path, kernels: str, plane: Plane
) -> None:
    with kernels_in_use(kernels):
        plain, quantised = Driver(llama_path), Driver(llama_path, **INT8)
    rows = [each.row(TOKENS) for each in (plain, quantised)]
    for driver, row in zip((plain, quantised), rows, strict=True):
        driver.step([(row, len(TOKENS))])
    expected = np.frombuffer(first_layer(plain, rows[0], plane), np.float32)
    items, scales = said(quantised, first_layer(quantised, rows[1], plane))
    expected = expected.reshape(items.shape)
    np.testing.assert_allclose(np.abs(expected).max(2, keepdims=True) / 127, scales, rtol=1e-6)
    assert (np.abs(items).max(2) == 127).all()
    assert (np.abs(items * scales - expected) <= scales * 0.5001).all()


def test_logits_are_nearly_the_same(llama_path: Path) -> None:
    plain, quantised = Driver(llama_path), Driver(llama_path, **INT8)
    logits = []
    for driver in (plain, quantised):
        row = driver.row(TOKENS * 20)
        driver.step([(row, len(row.tokens))])
        (found,) = row.logits.values()
        logits.append(found)
    off = (logits[0] - logits[1]).abs().max() / logits[0].abs().max()
    assert 0 < off < 0.05


def test_a_token_takes_an_item_a_lane_and_a_scale_a_head(llama_path: Path) -> None:
    layout = Driver(llama_path, **INT8).engine.pool.layout
    assert layout.token_bytes == layout.num_kv_heads * (layout.head_dim + 4)


def test_what_is_no_number_stays_none(llama_path: Path) -> None:
    """It ends its own sequence, and is not taken for a 0."""
    driver = Driver(llama_path, **INT8)
    row = driver.row(TOKENS)
    driver.step([(row, 4)])
    pool = driver.engine.pool
    pool.layer(Plane.VALUE, 0)[row.block_table[0], 1, :, -4:] = torch.tensor(
        np.frombuffer(np.float32(np.nan).tobytes(), np.int8).copy()
    )
    assert driver.step([(row, 1)]) == [None]
