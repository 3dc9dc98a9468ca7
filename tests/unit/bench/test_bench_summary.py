"""A run's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tandem.bench.answer import Answer
from tandem.bench.distribution import Distribution
from tandem.bench.summary import DISTRIBUTIONS, STALL_MS, Run, Summary
from tandem.bench.workload import WORKLOADS, Prompt

WORKLOAD = WORKLOADS["D"]


def answer(sent: float, *times: float, num_output: int | None = None, error: str = "") -> Answer:
    prompt = Prompt((1,), len(times) if num_output is None else num_output)
    arrivals = [(time, number + 1) for number, time in enumerate(times)]
    return Answer(prompt, sent, arrivals, error)


def summary(*answers: Answer, long: tuple[Answer, ...] = (), end: float = 10.0) -> Summary:
    return Summary.of(Run(list(answers), list(long), 0.0, end, 0.1), WORKLOAD, "arm", 3)


def test_what_comes_after_the_window_does_not_count() -> None:
    made = summary(answer(0, 1, 2, 3), answer(8, 9, 10, 11))
    assert made.num_tokens == 5
    assert made.num_requests == 1
    assert made.tokens_per_s == 0.5
    assert made.requests_per_s == 0.1
    assert len(made.itl) == 3
    assert made.num_problems == 0


def test_but_the_slowest_first_tokens_do() -> None:
    made = summary(answer(0, 1, 2, 3), answer(8, 14, 15))
    assert made.ttft.max_ms() == 6000
    assert made.num_tokens == 3


def test_answers_that_are_not_what_was_asked_for_are_told() -> None:
    made = summary(answer(0, 1, 2, num_output=3), answer(0, 1, 2, error="reset"), answer(0, 1))
    assert made.num_problems == 2
    assert made.problems == ["2 tokens came, 3 were asked for", "reset"]
    assert made.num_requests == 1


def test_long_prompts_count_for_their_own_time_to_first_token_only() -> None:
    made = summary(answer(0, 1, 2), long=(answer(0, 4, 5), answer(0, error="late")))
    assert made.num_tokens == 2
    assert made.long_ttft.percentile_ms(50) == 4000
    assert made.problems == ["late"]


def test_a_line_of_json_holds_it_all() -> None:
    made = summary(answer(0, 1, 2.5, 3), long=(answer(0, 4),))
    line = made.to_json()
    assert "\n" not in line
    assert Summary.from_json(line).to_json() == line


def test_the_figures_are_what_their_names_say() -> None:
    made = replace(
        summary(answer(0, 1, 2)),
        **{name: Distribution.of(n / 1000 for n in range(1001)) for name in DISTRIBUTIONS},
    )
    figures = made.figures()
    percentiles = {"p50": 500, "p99": 990, "p999": 999, "max": 1000}
    named = {name: percentiles[name.split("_")[-2]] for name in figures if name.endswith("_ms")}
    assert named.items() <= figures.items()
    assert {name.rsplit("_", 2)[0] for name in named} == set(DISTRIBUTIONS)
    assert (figures["num_intervals"], figures["num_stalls"]) == (1001, 1000 - STALL_MS)


def test_pooled_runs_are_as_one() -> None:
    one = summary(answer(0, 1, 2))
    other = summary(answer(0, 1, 4), answer(0, error="late"), end=30.0)
    pooled = Summary.pooled([one, other])
    assert (pooled.num_problems, pooled.problems) == (1, ["late"])
    assert (pooled.tpot.max_ms(), len(pooled.tpot)) == (3000, 2)
    assert pooled.tokens_per_s == pytest.approx(4 / 40)
    assert pooled.itl.max_ms() == 3000
    assert len(pooled.itl) == 2
    assert pooled.load_cores == pytest.approx(0.1)
