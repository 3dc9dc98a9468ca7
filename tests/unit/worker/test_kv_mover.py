"""The thread that copies KV out of the pool and back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import cast

import pytest
import torch
from kv_items import read_kv
from standing_plan_driver import Plan

from decode_service.kv_mover import KvMover, carry_out
from decode_service.parking import KvCopy, KvMove
from tandem.core.blocks import SequenceBlocks
from tandem.core.errors import TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.engine.protocols import KVPool, KVRead, KVWrite
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.transfer.state_guard import StateGuard

LAYOUT = KVLayout(num_layers=3, num_kv_heads=2, head_dim=4, block_size=4, dtype="float32")
LAYERS = range(LAYOUT.num_layers)


def a_pool() -> TorchKVPool:
    return TorchKVPool(LAYOUT, 12, torch.device("cpu"))


def a_move(plan: Plan, first_token: int = 0, copy: KvCopy | None = None, *ids: int) -> KvMove:
    blocks = SequenceBlocks(plan._allocator)
    blocks.ids = list(ids)
    return KvMove(plan._held[1], blocks, 10, first_token, copy)


@pytest.mark.parametrize("copy_bytes", [1, 10**6])
def test_what_comes_back_is_what_went(monkeypatch: pytest.MonkeyPatch, copy_bytes: int) -> None:
    monkeypatch.setattr("decode_service.kv_mover.COPY_BYTES", copy_bytes)
    plan, pool, rng = Plan(), a_pool(), random.Random(0)
    plan.run(1)
    num_bytes = 12 * LAYOUT.token_bytes * LAYOUT.num_layers
    for plane in Plane:
        pool.write(plane, LAYERS, [1, 2, 3], 12, memoryview(rng.randbytes(num_bytes)))
    copy = carry_out(a_move(plan, 0, None, 1, 2, 3, 4), pool)
    # The first block is found in the cache: it is not written.
    carry_out(a_move(plan, 4, copy, 1, 8, 9, 10), pool)
    for plane in Plane:
        went = read_kv(pool, plane, LAYERS, [1, 2, 3], 10)
        assert read_kv(pool, plane, LAYERS, [1, 8, 9], 10) == went


class NotedCopy:
    """One of a `NotedPool`."""

    is_stored = False

    def __init__(self, pool: NotedPool, copy: KVRead | KVWrite, num_bytes: int) -> None:
        self._pool = pool
        self._copy = copy
        self._number = len(pool.sizes)
        pool.sizes.append(num_bytes)
        pool.log.append(f"begin {self._number}")

    def end(self, *out: memoryview) -> None:
        self._copy.end(*out)
        self._pool.log.append(f"end {self._number}")
        self._pool.on_end()

    def close(self) -> None:
        self._copy.close()


class NotedPool(TorchKVPool):
    """As of a device: its copies may go on between their begin and their end. Notes their sizes,
    and what was done in which order; `on_end` is called whenever one has ended."""

    def __init__(self) -> None:
        super().__init__(LAYOUT, 12, torch.device("cpu"))
        self.sizes: list[int] = []
        self.log: list[str] = []
        self.on_end: Callable[[], None] = lambda: None

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> NotedCopy:
        num_bytes = len(layers) * num_tokens * LAYOUT.token_bytes
        return NotedCopy(self, super().begin_read(plane, layers, blocks, num_tokens), num_bytes)

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> NotedCopy:
        copy = super().begin_write(plane, layers, blocks, num_tokens, data)
        return NotedCopy(self, copy, data.nbytes)


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 7])
def test_a_device_stages_little_at_a_time_and_the_next_part_beside_it(
    monkeypatch: pytest.MonkeyPatch, num_blocks: int
) -> None:
    copy_bytes = num_blocks * LAYOUT.block_size * LAYOUT.token_bytes
    monkeypatch.setattr("decode_service.kv_mover.COPY_BYTES", copy_bytes)
    plan, pool = Plan(), NotedPool()
    plan.run(1)
    copy = carry_out(a_move(plan, 0, None, 1, 2, 3), pool)
    carry_out(a_move(plan, 0, copy, 8, 9, 10), pool)
    assert max(pool.sizes) <= copy_bytes
    # A plane's ten tokens of three layers, each way.
    assert sum(pool.sizes) == 2 * len(Plane) * 10 * 3 * LAYOUT.token_bytes
    count = len(pool.sizes) // 2
    for first in (0, count):
        turns = [f"begin {first}"]
        for number in range(first + 1, first + count):
            turns += [f"begin {number}", f"end {number - 1}"]
        turns.append(f"end {first + count - 1}")
        assert pool.log[2 * first : 2 * (first + count)] == turns


@pytest.mark.parametrize("copy", [None, KvCopy(10, {})])
def test_what_is_not_wanted_any_more_is_not_copied(copy: KvCopy | None) -> None:
    plan, no_pool = Plan(), cast("KVPool", None)
    plan.run(1)
    move = a_move(plan, 0, copy, 1, 2, 3)
    move.wanted = False
    assert carry_out(move, no_pool) is None


@pytest.mark.parametrize(
    "copy", [None, KvCopy(10, {plane: memoryview(bytes(960)) for plane in Plane})]
)
def test_what_is_not_wanted_any_more_is_copied_no_further(
    monkeypatch: pytest.MonkeyPatch, copy: KvCopy | None
) -> None:
    monkeypatch.setattr("decode_service.kv_mover.COPY_BYTES", 1)
    plan, pool = Plan(), NotedPool()
    plan.run(1)
    move = a_move(plan, 0, copy, 1, 2, 3)

    def leave() -> None:
        move.wanted = False

    pool.on_end = leave
    assert carry_out(move, pool) is None
    assert pool.log == ["begin 0", "begin 1", "end 0", "end 1"]


async def test_a_copy_that_fails_is_told_and_costs_no_more() -> None:
    plan, outcomes, guard = Plan(), [], StateGuard(asyncio.get_running_loop())
    plan.run(1)
    mover = KvMover(a_pool(), guard, lambda *outcome: outcomes.append(outcome))
    move = a_move(plan, 0, None, 1, 2, 99)
    mover.start(move)
    mover.close()
    ((told, copy, _),) = outcomes
    assert (told, copy) == (move, None)
    await asyncio.wait_for(guard.news.wait(), 10)
    assert not guard.crash.done()


async def test_who_cannot_take_the_outcome_ends_the_worker() -> None:
    guard, plan = StateGuard(asyncio.get_running_loop()), Plan()
    plan.run(1)

    def refuse(*outcome: object) -> None:
        raise AssertionError("a block is freed twice")

    mover = KvMover(a_pool(), guard, refuse)
    mover.start(a_move(plan, 0, None, 1, 2, 99))
    mover.close()
    with pytest.raises(TandemError, match="broken: AssertionError"):
        await asyncio.wait_for(guard.crash, 10)
