"""When the last prefill worker is gone."""

from __future__ import annotations

import pytest
from local_prefill_driver import LOST, Driver

from gateway.generation import Phase
from tandem.core.commands import PrefillBatch
from tandem.core.errors import Unavailable
from tandem.core.worker import WorkerRole


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
