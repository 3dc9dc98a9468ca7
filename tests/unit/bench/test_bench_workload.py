"""What is asked for."""

from __future__ import annotations

from itertools import islice

from tandem.bench.workload import WORKLOADS


def test_prompts_have_the_length_and_no_two_begin_alike() -> None:
    for workload in WORKLOADS.values():
        made = [
            prompt.token_ids for seed in (-1, 0, 1) for prompt in islice(workload.prompts(seed), 50)
        ]
        assert {len(each) for each in made} == {workload.num_prompt}
        assert len({each[:4] for each in made}) == len(made)


def test_the_same_seed_asks_the_same() -> None:
    workload = WORKLOADS["A"]
    assert next(workload.prompts(5)) == next(workload.prompts(5))
    assert next(workload.prompts(5)) != next(workload.prompts(6))


def test_only_d_has_long_prompts() -> None:
    assert next(WORKLOADS["A"].long_prompts(0), None) is None
    assert len(next(WORKLOADS["D"].long_prompts(0)).token_ids) == 2048


def test_scaled_runs_are_whole_rounds() -> None:
    assert WORKLOADS["A"].scaled(0.3).num_requests == 8
    assert WORKLOADS["A"].scaled(2).num_requests == 64
    assert WORKLOADS["D"].scaled(0.01).seconds == 3
    assert WORKLOADS["D"].scaled(0.01).num_requests == 0
