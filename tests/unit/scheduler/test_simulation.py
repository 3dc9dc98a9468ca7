"""Random scenarios of the whole system in one thread: see `simulation`.

`TANDEM_SCENARIOS` sets how many there are of each kind (default 50, a minute's work; `make
test-slow`: 1000). A failing scenario is run again with `TANDEM_SCENARIO=SEED`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_faults import Faults
from simulation import run_scenario

from gateway.colocated_policies import COLOCATED_POLICIES
from gateway.tokens import ServingMode

NUM_SCENARIOS = int(os.environ.get("TANDEM_SCENARIOS", "50"))
ONLY = os.environ.get("TANDEM_SCENARIO")
SEEDS = [int(ONLY)] if ONLY else range(NUM_SCENARIOS)

NONE = Faults()
CANCELS = Faults(
    0.1, breaks=False, losses=False, engine_failures=False, transfer_faults=False, drains=False
)
DRAINS = replace(CANCELS, rate=0.15, cancels=False, deadlines=False, drains=True)
NOBODY_LEAVES = Faults(0.1, cancels=False, deadlines=False)
BREAKS = replace(
    NOBODY_LEAVES, rate=0.2, losses=False, engine_failures=False, transfer_faults=False
)
LOSSES = replace(NOBODY_LEAVES, engine_failures=False, transfer_faults=False)
FAILURES = replace(NOBODY_LEAVES, breaks=False, losses=False)
ALL = Faults(0.15)
KINDS = {
    "undisturbed": NONE,
    "cancels": CANCELS,
    "drains": DRAINS,
    "broken streams": BREAKS,
    "lost workers": LOSSES,
    "failures": FAILURES,
    "everything": ALL,
}


@pytest.mark.parametrize("kind", KINDS)
def test_scenarios(kind: str) -> None:
    for seed in SEEDS:
        try:
            run_scenario(Random(f"{kind} {seed}"), KINDS[kind])
        except Exception as error:
            error.add_note(f"seed {seed} of {kind!r}")
            raise


@pytest.mark.parametrize("policy", COLOCATED_POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_colocated_scenarios(kind: str, policy: str) -> None:
    for seed in SEEDS[::3]:
        try:
            run_scenario(Random(f"{policy} {kind} {seed}"), KINDS[kind], policy)
        except Exception as error:
            error.add_note(f"seed {seed} of {kind!r}, {policy}")
            raise


def test_scenarios_prefill_in_both_places_if_they_may() -> None:
    scenarios = [run_scenario(Random(f"both {seed}"), NONE) for seed in range(200)]
    allowed = {"auto": ServingMode.LOCAL, "idle": ServingMode.LOCAL, "off": None}
    for local_prefill, mode in allowed.items():
        modes = [each.modes for each in scenarios if each.local_prefill == local_prefill]
        found = set().union(*modes)
        assert found == {ServingMode.DISAGGREGATED, mode} - {None}


def test_scenarios_preempt() -> None:
    policies = (None, *COLOCATED_POLICIES)
    scenarios = [
        run_scenario(
            Random(f"preempt {seed}"), NONE, policies[seed % len(policies)], is_crowded=True
        )
        for seed in range(100)
    ]
    assert sum(each.num_parked > 0 for each in scenarios) > 5
    assert sum(each.num_preemptions > each.num_parked for each in scenarios) > 5


def test_scenarios_hand_over_what_draining_workers_hold_and_lose_nothing() -> None:
    policies = (None, *COLOCATED_POLICIES)
    scenarios = [
        run_scenario(Random(f"drain {seed}"), DRAINS, policies[seed % len(policies)])
        for seed in range(100)
    ]
    assert sum(each.num_losses for each in scenarios) == 0
    handed_over = [generation for each in scenarios for generation in each.handed_over]
    assert any(generation.num_resumed_tokens for generation in handed_over)


def test_scenarios_find_what_is_cached_if_they_may() -> None:
    scenarios = [run_scenario(Random(f"cached {seed}"), NONE) for seed in range(100)]
    for prefix_caching in (True, False):
        found = {
            each.num_cached_tokens for each in scenarios if each.prefix_caching is prefix_caching
        }
        assert any(found) is prefix_caching


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_scenarios_that_shrink(random: Random) -> None:
    run_scenario(random, ALL, random.choice((None, *COLOCATED_POLICIES)))
