"""Prompts are hashed before their commands are applied, and nothing of them under the lock."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fake_state import RecordedState, running_worker
from standing_plan_driver import Plan, ids
from test_batch_queue import Queue, chunk

from tandem.core import prefix
from tandem.core.commands import Admit, PrefillBatch, Reserve
from tandem.core.prefix import BLOCKS_AT_ONCE, PrefixChain
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import SequenceKey

LENGTH = 4 * (BLOCKS_AT_ONCE + 10) + 1


class Hashes:
    """Counts the blocks that are hashed."""

    def __init__(self) -> None:
        self.count = 0

    def sha256(self, data: bytes) -> object:
        # A chain's beginning, a salt, is shorter.
        self.count += len(data) > 32
        return hashlib.sha256(data)

    def taken(self) -> int:
        count, self.count = self.count, 0
        return count


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> Hashes:
    counted = Hashes()
    monkeypatch.setattr(prefix, "hashlib", SimpleNamespace(sha256=counted.sha256))
    return counted


def reserve(sequence_id: int, length: int, num_generated: int = 0) -> Reserve:
    tokens = tuple(range(length))
    return Reserve(
        sequence_id,
        SequenceKey(f"r{sequence_id}"),
        tokens[: length - num_generated],
        3,
        SamplingParams(max_tokens=50, seed=0),
        generated_token_ids=tokens[length - num_generated :],
    )


def test_a_chain_is_hashed_bit_by_bit(hashes: Hashes) -> None:
    tokens = list(range(LENGTH))
    chain = PrefixChain(tokens, 4, b"")
    seen = [hashes.taken() for _ in chain.hashing(LENGTH)]
    assert [*seen, hashes.taken()] == [BLOCKS_AT_ONCE, 10]
    assert list(chain.hashing(LENGTH)) == []
    lazy = PrefixChain(tokens, 4, b"")
    assert list(chain.between(0, LENGTH // 4)) == list(lazy.between(0, LENGTH // 4))


@pytest.mark.parametrize("num_generated", [0, 7])
def test_a_decode_worker_hashes_nothing_of_a_prompt_under_the_lock(
    hashes: Hashes, num_generated: int
) -> None:
    plan = Plan(num_blocks=2 * LENGTH, max_model_len=2 * LENGTH, prefix_caching=True)
    command = reserve(1, LENGTH, num_generated)
    assert len(list(plan.hashing(command))) == 1
    assert hashes.taken() == LENGTH // 4
    plan.apply(command)
    (plan.grants[1],) = plan.reports.take()
    plan.apply(Admit(1))
    plan.arm(1)
    assert len(plan.prefix_cache.take_hashes()) == LENGTH // 4
    assert hashes.taken() == 0
    plan.reports.take()
    # The prompt's last block has its own last token; three more fill it.
    for _ in range(3):
        assert hashes.taken() == 0
        plan.done(plan.start(), 50)
    assert hashes.taken() == 1
    # And it is found by another that begins so.
    list(plan.hashing(reserve(2, LENGTH)))
    hashes.taken()
    plan.apply(reserve(2, LENGTH))
    (grant,) = plan.reports.take()
    assert (grant.num_cached_tokens, hashes.taken()) == (LENGTH - 1, 0)


def test_a_prompt_that_is_computed_here_is_published_without_hashing(hashes: Hashes) -> None:
    plan = Plan(num_blocks=64, prefix_caching=True)
    command = reserve(1, 21)
    list(plan.hashing(command))
    plan.apply(command)
    plan.apply(Admit(1, compute=True))
    plan.reports.take()
    hashes.taken()
    plan.done(plan.start(), 50)
    assert ids(plan.start()) == [1]
    assert (len(plan.prefix_cache.take_hashes()), hashes.taken()) == (5, 0)


def test_a_prefill_worker_hashes_nothing_under_the_lock(hashes: Hashes) -> None:
    """Chunk by chunk, as they come."""
    queue = Queue(num_blocks=64, max_model_len=100, prefix_caching=True)
    for number, (start, end) in enumerate([(0, 8), (8, 20), (20, 30)]):
        batch = PrefillBatch(number, (chunk(1, 30, start=start, end=end),))
        list(queue.hashing(batch))
        assert hashes.taken() == end // 4 - start // 4
        queue.apply(batch)
        queue.done(queue.start(), 50 if end == 30 else None)
    assert (len(queue.prefix_cache.take_hashes()), hashes.taken()) == (7, 0)
    again = PrefillBatch(9, (chunk(2, 30),))
    list(queue.hashing(again))
    assert hashes.taken() == 7
    queue.apply(again)
    (part,) = queue.start().slices
    assert (part.start, hashes.taken()) == (28, 0)


def test_what_could_not_be_hashed_ahead_is_hashed_where_it_is_needed(hashes: Hashes) -> None:
    """The second of two chunks that come together: the first is not there yet."""
    queue = Queue(num_blocks=64, prefix_caching=True)
    batches = [
        PrefillBatch(0, (chunk(1, 20, end=8),)),
        PrefillBatch(1, (chunk(1, 20, start=8),)),
    ]
    for each in batches:
        list(queue.hashing(each))
    assert hashes.taken() == 2
    for each in batches:
        queue.apply(each)
    queue.done(queue.start(), None)
    queue.done(queue.start(), 50)
    assert (len(queue.prefix_cache.take_hashes()), hashes.taken()) == (5, 3)


def test_commands_that_never_come_leave_nothing(hashes: Hashes) -> None:
    """The id is another's under the next controller."""
    plan, queue = Plan(prefix_caching=True), Queue(prefix_caching=True)
    other = reserve(1, 9)
    list(plan.hashing(other))
    plan.clear()
    hashes.taken()
    plan.reserve(1, prompt=tuple(range(50, 59)))
    plan.apply(Admit(1))
    plan.arm(1)
    assert hashes.taken() == 2
    list(queue.hashing(PrefillBatch(0, (chunk(1, 9),))))
    queue.clear()
    hashes.taken()
    queue.submit(1, chunk(1, 9))
    queue.done(queue.start(), 50)
    assert hashes.taken() == 2


def test_without_a_cache_nothing_is_hashed(hashes: Hashes) -> None:
    list(Plan().hashing(reserve(1, 20)))
    list(Queue().hashing(PrefillBatch(0, (chunk(1, 20),))))
    assert hashes.taken() == 0


class SlowState(RecordedState):
    """Takes its time to hash, and says who could take the lock meanwhile."""

    lock: threading.Condition
    num_free_locks = 0

    def hashing(self, command: object) -> Iterator[None]:
        for _ in range(3):
            thread = threading.Thread(target=self._try_lock)
            thread.start()
            thread.join()
            yield

    def _try_lock(self) -> None:
        if self.lock.acquire(blocking=False):
            self.num_free_locks += 1
            self.lock.release()


async def test_a_worker_hashes_without_its_lock_and_lets_others_go_on() -> None:
    async with running_worker(state=SlowState) as worker:
        worker.state.lock = worker.guard.lock
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await worker.hash_ahead([Admit(1), Admit(2)])
        beside.cancel()
        assert worker.state.num_free_locks == 6
        assert turns >= 6
        assert worker.state.applied == []
