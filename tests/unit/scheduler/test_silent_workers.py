"""A worker that stands still, or is gone, holds up nobody but its own."""

from __future__ import annotations

import pytest
from local_prefill_driver import LOST, Driver

from gateway.disaggregated import MAX_ANSWER_S
from gateway.generation import Generation, Phase
from gateway.worker_view import PoolUse
from tandem.core.commands import PrefillBatch
from tandem.core.errors import Unavailable
from tandem.core.worker import WorkerRole

# A decode worker that does not answer


def two_decode_workers() -> tuple[Driver, list[Generation]]:
    """Two prompts for each, in one batch, and only `d` has answered."""
    driver = Driver(num_running=0, local_prefill="off")
    driver.join("d2", WorkerRole.DECODE)
    generations = [driver.submit(str(number)) for number in range(4)]
    driver.effects()
    for generation in generations:
        if generation.decode_worker == "d":
            driver.grant(generation)
    assert sorted(each.decode_worker for each in generations) == ["d", "d", "d2", "d2"]
    assert driver.commands(PrefillBatch) == []
    return driver, generations


def later(driver: Driver, seconds: float) -> None:
    """The prefill worker is heard of then."""
    driver.scheduler.heard("p", PoolUse(1000), seconds, [])


def test_a_batch_goes_without_whom_a_silent_worker_has_not_answered_for() -> None:
    driver, generations = two_decode_workers()
    answered = [each.sequence_id for each in generations if each.decode_worker == "d"]
    later(driver, MAX_ANSWER_S)
    (batch,) = driver.commands(PrefillBatch)
    assert [chunk.sequence_id for chunk in batch.chunks] == answered


def test_who_was_not_answered_for_goes_elsewhere() -> None:
    driver, generations = two_decode_workers()
    later(driver, MAX_ANSWER_S)
    driver.effects()
    assert {each.decode_worker for each in generations} == {"d"}


def test_a_silent_worker_is_given_more_once_it_is_heard() -> None:
    driver, _ = two_decode_workers()
    later(driver, MAX_ANSWER_S)
    driver.effects()
    silent = driver.scheduler._fleet.decode["d2"]
    generation = driver.submit("r")
    assert not silent.can_take(generation)
    driver.scheduler.heard("d2", PoolUse(1000), 2 * MAX_ANSWER_S, [])
    assert silent.can_take(generation)


def test_until_then_a_batch_waits_for_all_of_it() -> None:
    driver, generations = two_decode_workers()
    later(driver, MAX_ANSWER_S / 2)
    assert driver.commands(PrefillBatch) == []
    for generation in generations:
        if generation.decode_worker == "d2":
            driver.grant(generation)
    (batch,) = driver.commands(PrefillBatch)
    assert len(batch.chunks) == 4


# No prefill worker any more


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 5])
def test_decode_workers_compute_what_comes_when_the_last_prefill_worker_is_lost(
    measured: bool, max_tokens: int
) -> None:
    driver = Driver(num_running=0, measured=measured)
    driver.scheduler.worker_lost("p", LOST)
    assert driver.scheduler.is_ready
    generation = driver.submit("r", max_tokens=max_tokens)
    assert driver.local() == [generation.sequence_id]


def test_without_local_prefill_nothing_new_is_taken_then() -> None:
    driver = Driver(num_running=0, local_prefill="off")
    driver.scheduler.worker_lost("p", LOST)
    assert not driver.scheduler.is_ready
    with pytest.raises(Unavailable, match="no prefill worker"):
        driver.submit("r")


def test_a_fleet_that_starts_waits_for_its_first_prefill_worker() -> None:
    driver = Driver(num_running=0, prefill=False)
    assert not driver.scheduler.is_ready
    driver.join("p", WorkerRole.PREFILL)
    assert driver.scheduler.is_ready


def test_what_a_lost_prefill_worker_had_goes_on_there() -> None:
    driver = Driver(num_running=0)
    generation = driver.submit("r", length=400)
    driver.effects()
    driver.grant(generation)
    assert driver.commands(PrefillBatch) != []
    driver.scheduler.worker_lost("p", LOST)
    assert driver.local() == [generation.sequence_id]
    assert generation.phase is Phase.RESERVING
