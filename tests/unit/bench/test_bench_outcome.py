"""From answers to outcomes, and from these to attainment and objectives."""

from __future__ import annotations

import pytest

from tandem.bench.answer import Answer
from tandem.bench.objectives import CLAIM, GRID, LOOSEST, best, objective_grid, uncontended
from tandem.bench.outcome import Objective, Outcome, attainment
from tandem.bench.workload import Prompt


def answer(*arrivals: tuple[float, int], num_output: int = 3, error: str = "") -> Answer:
    made = Answer(Prompt((1, 2), num_output, tenant="a"), sent_s=10.5, error=error)
    for now, num_tokens in arrivals:
        made.note(now, num_tokens)
    return made


def outcome(ttft_s: float | None, tpot_s: float | None, tenant: str = "") -> Outcome:
    return Outcome(8, 4, ttft_s, tpot_s, tenant=tenant)


def test_the_first_token_counts_from_when_the_request_was_due() -> None:
    made = Outcome.of(answer((12, 1), (13, 2), (16, 3)), due_s=10, dilation=1)
    assert (made.ttft_s, made.tpot_s, made.late_s) == (2, 2, 0.5)
    assert (made.num_prompt, made.num_output, made.tenant) == (2, 3, "a")


def test_dilated_times_are_told_in_the_models_own() -> None:
    made = Outcome.of(answer((12, 1), (13, 2), (16, 3)), due_s=10, dilation=4)
    assert (made.ttft_s, made.tpot_s, made.late_s) == (0.5, 0.5, 0.125)


def test_one_token_has_no_time_per_token() -> None:
    made = Outcome.of(answer((12, 1), num_output=1), due_s=10, dilation=1)
    assert made.tpot_s == 0
    assert made.meets({"a": Objective(2, 0.001)})


@pytest.mark.parametrize("bad", [answer((12, 1)), answer((12, 3), error="status 429"), answer()])
def test_what_failed_or_was_not_finished_meets_nothing(bad: Answer) -> None:
    made = Outcome.of(bad, due_s=10, dilation=1)
    assert (made.ttft_s, made.tpot_s) == (None, None)
    assert made.problem
    assert not made.meets({"a": Objective(1e9, 1e9)})


def test_both_bounds_must_be_kept() -> None:
    bounds = {"": Objective(1.0, 0.1)}
    assert outcome(1.0, 0.1).meets(bounds)
    assert not outcome(1.01, 0.1).meets(bounds)
    assert not outcome(1.0, 0.11).meets(bounds)


def test_who_keeps_to_both_bounds_is_done_by_then() -> None:
    assert Objective(ttft_s=2, tpot_s=0.5).latest_s(num_output=6) == 5


def test_attainment_counts_failures() -> None:
    outcomes = [outcome(0.5, 0.05), outcome(None, None), outcome(2.0, 0.05), outcome(0.5, 0.0)]
    assert attainment(outcomes, {"": Objective(1.0, 0.1)}) == 0.5
    assert attainment([], {"": Objective(1.0, 0.1)}) == 0


def test_uncontended_times_are_medians_of_what_was_served() -> None:
    served = [outcome(1, 0.1), outcome(2, 0.3), outcome(9, 0.2), outcome(None, None)]
    assert uncontended(served) == {"": Objective(2, 0.2)}
    assert uncontended([outcome(None, None)]) is None
    # Of one token there is no time per token.
    assert uncontended([outcome(1, 0)]) is None


def test_each_tenant_has_bounds_of_its_own() -> None:
    alone = [outcome(1, 0.1, "short"), outcome(20, 0.3, "long"), outcome(3, 0.1, "short")]
    base = uncontended(alone)
    assert base == {"short": Objective(2, 0.1), "long": Objective(20, 0.3)}
    other = {"short": Objective(1, 0.2), "long": Objective(30, 0.2)}
    assert best([base, other]) == {"short": Objective(1, 0.1), "long": Objective(20, 0.2)}
    bounds = objective_grid(base)[CLAIM]
    assert outcome(99, 0.4, "long").meets(bounds)
    assert not outcome(99, 0.1, "short").meets(bounds)
    assert uncontended([*alone, outcome(None, None, "broken")]) is None


def test_objectives_are_multiples_of_the_best_of_each() -> None:
    base = best([{"": Objective(1, 0.3)}, {"": Objective(2, 0.2)}])
    assert base == {"": Objective(1, 0.2)}
    grid = objective_grid(base)
    assert set(grid) == set(GRID) == {(t, p) for t in (5, 10) for p in (1.25, 1.5, 2)}
    assert grid[CLAIM] == {"": Objective(5, pytest.approx(0.3))}
    assert grid[LOOSEST] == {"": Objective(10, pytest.approx(0.4))}
