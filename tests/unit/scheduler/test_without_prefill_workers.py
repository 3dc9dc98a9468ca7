"""When the last prefill worker is gone."""

from __future__ import annotations

import pytest
from local_prefill_driver import LOST, Driver

from gateway.generation import Phase
from gateway.local_prefill import LocalPrefillMode
from gateway.suspects import PATIENCE_S
from gateway.worker_view import PoolUse
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


def test_what_waited_for_a_batch_of_a_lost_prefill_worker_has_lost_nothing() -> None:
    driver = Driver(num_running=0)
    generation = driver.submit("r", length=400)
    driver.effects()
    assert generation.phase is Phase.RESERVING
    assert generation.prefill is not None
    driver.scheduler.worker_lost("p", LOST)
    assert driver.local() == [generation.sequence_id]
    assert generation.setbacks.num_losses == 0


# While it may be lost, and is the only one


def test_what_waits_for_a_batch_of_the_only_prefill_worker_goes_to_a_decode_worker() -> None:
    driver = Driver(num_running=0)
    generation = driver.submit("r", length=400)
    driver.effects()
    assert generation.prefill is not None
    driver.scheduler.worker_suspected("p")
    assert driver.local() == [generation.sequence_id]
    assert generation.setbacks.num_losses == 0


@pytest.mark.parametrize("local_prefill", ["auto", "off"])
def test_what_the_only_prefill_worker_computes_goes_on_once_a_decode_worker_was_heard(
    local_prefill: LocalPrefillMode,
) -> None:
    driver = Driver(num_running=0, local_prefill=local_prefill)
    generation = driver.submit("r", length=400)
    driver.effects()
    driver.grant(generation)
    assert driver.commands(PrefillBatch) != []
    driver.scheduler.worker_suspected("p")
    driver.scheduler.heard("d", PoolUse(1000), now=PATIENCE_S / 2)
    assert driver.local() == []
    driver.scheduler.heard("d", PoolUse(1000), now=PATIENCE_S)
    moves = local_prefill == "auto"
    assert driver.local() == [generation.sequence_id] * moves
    assert generation.setbacks.num_losses == moves
