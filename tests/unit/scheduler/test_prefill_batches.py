"""What prefill batches are made of: how much, and of whose prompts."""

from __future__ import annotations

import pytest
from scheduler_driver import SchedulerDriver
from sim_worker import BLOCK_SIZE

from gateway.disaggregated import FIRST_BATCH_TOKENS, MAX_BATCH_S, MIN_BATCH_STEPS
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from tandem.core.commands import PrefillBatch
from tandem.core.reports import BatchDone
from tandem.core.worker import WorkerRole

MAX_BATCH_TOKENS = 2048


class Driver(SchedulerDriver):
    """A scheduler with one prefill worker. Requests end with their first token, so no decode worker
    takes part."""

    def __init__(self, token_s: float = 0.0, num_blocks: int = 10_000, base_s: float = 0.0) -> None:
        scheduler = Scheduler(queue_policy("shortest-first"), Limits(MAX_BATCH_TOKENS))
        super().__init__(scheduler, num_blocks=num_blocks)
        self.join("p", WorkerRole.PREFILL, max_num_seqs=100)
        self.join("d", WorkerRole.DECODE)
        if token_s:
            self.learn(token_s, base_s)

    def learn(self, token_s: float, base_s: float) -> None:
        """Some batches of many sizes ran at this pace."""
        for num_tokens in (256, 64, 1024, 512) * 5:
            self.stepped("p", num_tokens, base_s + token_s * num_tokens)

    def submit(self, name: str, length: int) -> int:
        """A request's sequence."""
        return super().submit(name, length, max_tokens=1).sequence_id

    def batches(self) -> list[PrefillBatch]:
        return self.commands(PrefillBatch)

    def done(self, batch: PrefillBatch) -> None:
        self.scheduler.report("p", BatchDone(batch.batch_id, 1))


def sequences(batch: PrefillBatch) -> list[int]:
    return [chunk.sequence_id for chunk in batch.chunks]


def test_a_batch_has_no_more_prompts_than_it_may() -> None:
    driver, most = Driver(), Limits().max_batch_seqs
    for number in range(most + 1):
        driver.submit(str(number), length=1)
    assert [len(batch.chunks) for batch in driver.batches()] == [most, 1]


def num_tokens(batch: PrefillBatch) -> int:
    return sum(len(chunk.token_ids) for chunk in batch.chunks)


def test_batches_start_small() -> None:
    driver = Driver()
    driver.submit("r", 10_000)
    assert [num_tokens(each) for each in driver.batches()] == [FIRST_BATCH_TOKENS] * 2


@pytest.mark.parametrize("token_s", [0.02, 5e-3, 1e-3, 3e-5])
def test_a_batch_takes_a_bounded_time(token_s: float) -> None:
    """A block at the least, all that a batch may have on a device that is fast enough."""
    driver = Driver(token_s)
    driver.submit("r", 10_000)
    expected = min(MAX_BATCH_TOKENS, max(BLOCK_SIZE, MAX_BATCH_S / token_s))
    for each in driver.batches():
        assert num_tokens(each) == pytest.approx(expected, rel=0.1)
        assert num_tokens(each) % BLOCK_SIZE == 0


def test_a_batch_is_worth_a_step_however_slow_the_worker() -> None:
    """If a step took the whole time of a batch by itself, there would be no room for tokens."""
    driver = Driver(3e-3, base_s=2 * MAX_BATCH_S)
    driver.submit("r", 10_000)
    expected = (MIN_BATCH_STEPS - 1) * 2 * MAX_BATCH_S / 3e-3
    assert num_tokens(driver.batches()[0]) == pytest.approx(expected, rel=0.1)


def test_a_short_prompt_overtakes_a_long_one_between_its_chunks() -> None:
    driver = Driver(1e-3)
    long = driver.submit("long", 2000)
    first, second = driver.batches()
    assert sequences(first) == sequences(second) == [long]
    short = driver.submit("short", 30)
    driver.done(first)
    (third,) = driver.batches()
    assert sequences(third) == [short, long]
    assert num_tokens(third) == pytest.approx(MAX_BATCH_S / 1e-3, rel=0.1)


def test_of_those_that_have_started_the_shortest_goes_on_first() -> None:
    driver = Driver(1e-3)
    driver.submit("long", 2000)
    first, second = driver.batches()
    shorter = driver.submit("shorter", 600)
    for done in (first, second):
        driver.done(done)
        (batch,) = driver.batches()
        assert sequences(batch) == [shorter]


def test_a_prompt_for_which_there_is_no_room_stops_none_that_has_started() -> None:
    """It would wait for blocks that only these can free."""
    driver = Driver(1e-3, num_blocks=1000 // BLOCK_SIZE)
    long = driver.submit("long", 1000)
    first, _ = driver.batches()
    short = driver.submit("short", 30)
    driver.done(first)
    (third,) = driver.batches()
    assert sequences(third) == [long]
    assert short not in sequences(third)
