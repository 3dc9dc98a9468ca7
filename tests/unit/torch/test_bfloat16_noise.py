"""The bound on what two engines in bfloat16 may differ by tells right ones from wrong ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch_driver import (
    BFLOAT16_NOISE,
    WIDE_LLAMA,
    Driver,
    Row,
    assert_close,
    kernels_in_use,
    save_random_model,
    take_batches,
)

from tandem.native.library import TORCH


class ForgetfulDriver(Driver):
    """Its steps of single tokens do not see the keys and values of the token before."""

    def step(self, work: Iterable[tuple[Row, int]]) -> list[int | None]:
        work = list(work)
        items, block_size = self.engine.pool._items, self.engine.pool.layout.block_size
        hidden = []
        for row, count in work:
            if count == 1 and row.num_computed:
                block, offset = divmod(row.num_computed - 1, block_size)
                hidden.append(items[:, :, row.block_table[block], offset])
        kept = [each.clone() for each in hidden]
        for each in hidden:
            each.zero_()
        tokens = super().step(work)
        for each, items_before in zip(hidden, kept, strict=True):
            each.copy_(items_before)
        return tokens


def num_apart(drivers: tuple[Driver, Driver], computed: Sequence[Sequence[Row]]) -> int:
    """By how many sequences the engines can be told apart."""
    count = 0
    for one, other in zip(*computed, strict=True):
        try:
            assert_close(drivers, (one, other), torch.bfloat16, BFLOAT16_NOISE)
        except AssertionError:
            count += 1
    return count


def test_right_engines_are_within_it_and_one_that_forgets_a_key_is_not(tmp_path: Path) -> None:
    save_random_model(WIDE_LLAMA, tmp_path)
    options = {"dtype": "bfloat16", "num_tokens": 8000}
    with kernels_in_use(TORCH):
        by_torch = Driver(tmp_path, seed=1, **options)
    right, wrong = Driver(tmp_path, seed=2, **options), ForgetfulDriver(tmp_path, seed=2, **options)
    expected, found, forgotten = (
        take_batches(driver, (40, 17, 1)) for driver in (by_torch, right, wrong)
    )
    assert num_apart((by_torch, right), (expected, found)) == 0
    assert num_apart((by_torch, wrong), (expected, forgotten)) > 20
