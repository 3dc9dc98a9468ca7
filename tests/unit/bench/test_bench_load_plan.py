"""From flags to a load."""

from __future__ import annotations

from itertools import islice
from math import inf, isinf

import pytest

from tandem.bench.load_options import LoadOptions
from tandem.bench.load_plan import plan_load
from tandem.bench.report.wording import load_text
from tandem.bench.text_prompts import PlainWords
from tandem.bench.trace import Trace, TracedRequest
from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError

IDS = range(256)
TIMED = Trace(tuple(TracedRequest(each, each / 10, 4, None, 20) for each in range(5)))
UNTIMED = Trace((TracedRequest(1, None, 4, "Say it."),))


def arrivals(read: Trace | None = None, /, **options) -> list[float]:
    return list(islice(plan_load(LoadOptions(**options), read).loop().arrivals, 8))


def test_a_rate_is_an_open_loop_of_some_seconds() -> None:
    plan = plan_load(LoadOptions(rate=4.0, warm_up_s=2.0))
    assert (plan.spec.workload, plan.spec.arrivals) == ("chat", "poisson")
    loop = plan.loop()
    assert (loop.warm_up_s, loop.measured_s, loop.num_measured, loop.concurrency) == (2, 30, 0, 0)
    assert arrivals(rate=4.0) != arrivals(rate=4.0, burstiness=0.5)
    assert plan_load(LoadOptions(rate=4.0, warm_up_s=2.0, concurrency=0)).spec == plan.spec


def test_without_a_rate_it_is_a_closed_loop() -> None:
    plan = plan_load(LoadOptions(num_requests=20))
    assert plan.spec.arrivals == "closed"
    loop = plan.loop()
    assert (loop.num_measured, loop.concurrency) == (20, 8)
    assert isinf(loop.measured_s)
    assert set(arrivals(num_requests=20)) == {0.0}
    # vLLM's words for the same.
    assert plan_load(LoadOptions(num_requests=20, rate=inf, concurrency=8)).spec == plan.spec


def test_an_infinite_rate_without_a_bound_is_all_at_once() -> None:
    assert arrivals(rate=inf, num_requests=3) == [0.0] * 3
    assert arrivals(rate=inf, num_requests=3, concurrency=0) == [0.0] * 3


def test_prompts_that_all_come_at_once_are_made_before() -> None:
    worded: list[Prompt] = []

    class Slow(PlainWords):
        def worded(self, prompt: Prompt) -> Prompt:
            worded.append(prompt)
            return super().worded(prompt)

    prompts = plan_load(LoadOptions(rate=inf, num_requests=3)).prompts(IDS, Slow())
    assert len(worded) == len(list(prompts)) == 3
    next(plan_load(LoadOptions(rate=4.0)).prompts(IDS, Slow()))
    assert len(worded) == 4


def test_a_timed_trace_keeps_its_times() -> None:
    assert arrivals(TIMED, trace="some/trace.jsonl", speed=2.0) == [0.0, 0.05, 0.1, 0.15, 0.2]
    plan = plan_load(LoadOptions(trace="some/trace.jsonl", speed=2.0), TIMED)
    assert plan.spec.workload == "trace trace.jsonl at 2 times"
    assert plan.spec.num_requests == 5


def test_a_trace_at_a_rate_goes_round() -> None:
    plan = plan_load(LoadOptions(trace="prompts", rate=5.0, seconds=2.0), UNTIMED)
    texts = [each.text for each in islice(plan.prompts(IDS, None), 3)]
    assert (plan.spec.arrivals, texts) == ("poisson", ["Say it."] * 3)


def test_random_prompts_have_the_lengths_asked_for() -> None:
    plan = plan_load(LoadOptions(prompt_tokens="10:20", output_tokens="7", length_scale=2.0))
    made = list(islice(plan.prompts(IDS, None), 50))
    assert {each.num_output for each in made} == {14}
    assert all(20 <= len(each.token_ids) <= 40 for each in made)
    assert plan.spec.workload == "random 10:20 in, 7 out"


def test_prompts_become_text_where_that_is_wanted() -> None:
    prompt = next(plan_load(LoadOptions()).prompts(IDS, PlainWords()))
    assert len(prompt.text.split()) == len(prompt.token_ids)


def test_the_fixed_workloads_have_their_own_sizes() -> None:
    spec = plan_load(LoadOptions(workload="B")).spec
    assert (spec.concurrency, spec.num_requests, spec.seconds) == (16, 32, 0)
    assert plan_load(LoadOptions(workload="B", num_requests=48)).spec.num_requests == 48


def test_d_has_long_prompts_at_their_pace() -> None:
    plan = plan_load(LoadOptions(workload="D", seconds=7.0, warm_up_s=1.0))
    assert list(plan.long_loop().arrivals) == [1.5, 4.5, 7.5]
    assert len(next(plan.long_prompts(IDS, None)).token_ids) == 2048
    assert {len(each.token_ids) for each in islice(plan.prompts(IDS, None), 9)} == {32}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 4.0}, "chat, 4 requests/s, 30 s"),
        (
            {"rate": 4.0, "burstiness": 0.5, "seconds": 9.0, "warm_up_s": 1.0},
            "chat, 4 requests/s, burstiness 0.5, 9 s after 1 s",
        ),
        ({"concurrency": 3, "num_requests": 9}, "chat, 3 at a time, 9 requests"),
        ({"rate": inf, "num_requests": 9}, "chat, all at once, 9 requests"),
    ],
)
def test_a_load_in_words(options: dict, text: str) -> None:
    assert load_text(plan_load(LoadOptions(**options)).spec) == text


@pytest.mark.parametrize(
    "options",
    [
        {"workload": "poetry"},
        {"workload": "chat", "prompt_tokens": "9"},
        {"workload": "A", "rate": 2.0},
        {"workload": "D", "num_requests": 5},
        {"rate": inf},
        {"rate": inf, "num_requests": 5, "warm_up_s": 1.0},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": -inf, "num_requests": 3},
        {"rate": 4.0, "burstiness": inf},
        {"length_scale": inf},
        {"length_scale": float("nan")},
        {"seconds": float("nan")},
        {"warm_up_s": float("nan")},
        {"warm_up_s": inf},
        {"burstiness": -1.0},
        {"length_scale": 0.0},
        {"seconds": -1.0},
        {"seconds": 0.0},
        {"num_requests": 0},
        {"concurrency": 0},
    ],
)
def test_what_makes_no_load_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        plan_load(LoadOptions(**options))


def test_more_requests_than_a_timed_trace_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="t has 5 requests"):
        plan_load(LoadOptions(trace="t", num_requests=6), TIMED)
    assert plan_load(LoadOptions(trace="t", num_requests=6, rate=2.0), TIMED).spec.num_requests == 6


def test_a_trace_has_no_warm_up() -> None:
    with pytest.raises(ConfigError, match="warm-up"):
        plan_load(LoadOptions(trace="t", warm_up_s=1.0), TIMED)


@pytest.mark.parametrize(
    ("options", "trace"),
    [({}, None), ({"workload": "shared-prefix"}, None), ({"workload": "D"}, None), ({}, TIMED)],
)
def test_each_run_has_its_own_tokens_of_the_same_lengths(
    options: dict[str, str], trace: Trace | None
) -> None:
    def prompts(nonce: str, **more: bool) -> list[Prompt]:
        plan = plan_load(LoadOptions(**options, **more), trace, nonce=nonce)
        return list(islice(plan.prompts(IDS, None), 5))

    one, other = prompts("one"), prompts("other")
    assert [len(each.token_ids) for each in one] == [len(each.token_ids) for each in other]
    assert [each.num_output for each in one] == [each.num_output for each in other]
    assert not {each.token_ids[:8] for each in one} & {each.token_ids[:8] for each in other}
    assert prompts("one", same_tokens=True) == prompts("other", same_tokens=True) == prompts("")


def test_a_trace_that_goes_round_has_other_tokens_each_time() -> None:
    made = list(islice(plan_load(LoadOptions(trace="t", rate=1.0), TIMED).prompts(IDS, None), 10))
    assert [len(each.token_ids) for each in made[:5]] == [len(each.token_ids) for each in made[5:]]
    assert len({each.token_ids[:8] for each in made}) == 10


@pytest.mark.parametrize("trace", [None, TIMED])
def test_who_has_served_the_probe_knows_no_prompt(trace: Trace | None) -> None:
    plan = plan_load(LoadOptions(trace="t" if trace else ""), trace)
    probe, first = plan.probe(IDS, None), next(plan.prompts(IDS, None))
    assert len(probe.token_ids) == len(first.token_ids)
    assert probe.token_ids[:16] != first.token_ids[:16]


@pytest.mark.parametrize(
    ("options", "trace"),
    [
        ({"speed": 2.0}, None),
        ({"speed": 2.0}, UNTIMED),
        ({"speed": 2.0, "rate": 1.0}, TIMED),
        ({"burstiness": 0.5}, None),
        ({"burstiness": 0.5, "rate": inf, "num_requests": 3}, None),
        ({"workload": "chat"}, TIMED),
        ({"prompt_tokens": "9"}, TIMED),
    ],
)
def test_what_would_have_no_meaning_is_refused(
    options: dict[str, object], trace: Trace | None
) -> None:
    with pytest.raises(ConfigError):
        plan_load(LoadOptions(**options), trace)
