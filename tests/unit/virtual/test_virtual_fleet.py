"""Fleets in virtual time, against times that are worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count, pairwise

import pytest
from roofline import LINK_BANDWIDTH, NUM_LAYERS, TOKEN_KV_BYTES, layer_link_s, step_s

from tandem.bench.answer import Answer
from tandem.bench.arms import parse_arm
from tandem.bench.open_loop import OpenRun
from tandem.bench.outcome import Objective
from tandem.bench.subject import PoissonLoop
from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError
from tandem.simulation.events import HOP_S, Events
from tandem.simulation.fleet import Fleet, build_fleet
from tandem.simulation.loads import run_open_loop, serve_alone

SPLIT = "1p1d+local-prefill=off"
CHUNKED = "colocated+batching=chunked"
PATIENT = {"": Objective(1e9, 1e9)}
FRESH_TOKEN_IDS = count(1)


def fleet(arm: str, device: str = "mock:h100") -> Fleet:
    return build_fleet(device, parse_arm(arm), Events())


def prompts(*sizes: tuple[int, int]) -> list[Prompt]:
    """Of (prompt, output) tokens, no two of which begin alike."""
    return [
        Prompt(tuple(next(FRESH_TOKEN_IDS) for _ in range(num_prompt)), num_output)
        for num_prompt, num_output in sizes
    ]


def submit(served: Fleet, *sizes: tuple[int, int]) -> list[Answer]:
    """Have all served that come now."""
    answers = [Answer(prompt, served.events.now_s) for prompt in prompts(*sizes)]
    for each in answers:
        served.gateway.submit(each)
    served.events.run()
    return answers


def gaps(answer: Answer) -> list[float]:
    return [later - earlier for (earlier, _), (later, _) in pairwise(answer.arrivals)]


def test_a_request_alone_on_a_colocated_worker() -> None:
    (answer,) = submit(fleet(CHUNKED), (200, 4))
    # There and back, and a step.
    assert answer.ttft_s() == pytest.approx(2 * HOP_S + step_s((0, 200)))
    assert gaps(answer) == pytest.approx([step_s((end - 1, end)) for end in (201, 202, 203)])


def test_a_request_alone_on_a_split_fleet() -> None:
    (answer,) = submit(fleet(SPLIT), (200, 4))
    # A reservation and its grant, the batch and its first token.
    assert answer.ttft_s() == pytest.approx(4 * HOP_S + step_s((0, 200)))


def test_a_transfer_hides_behind_the_layers_that_are_still_computed() -> None:
    served = fleet(SPLIT)
    submit(served, (200, 4))
    (answer,) = submit(served, (600, 4))
    assert answer.ttft_s() == pytest.approx(4 * HOP_S + step_s((0, 600)))
    # A layer takes less to send than to compute: only the last is waited for.
    assert layer_link_s(600) < step_s((0, 600)) / NUM_LAYERS
    first, *rest = gaps(answer)
    assert first == pytest.approx(layer_link_s(600) + HOP_S + step_s((600, 601)))
    assert rest == pytest.approx([step_s((601, 602)), step_s((602, 603))])


def test_a_transfer_over_a_slow_link_is_waited_for() -> None:
    served = fleet(SPLIT, "mock:h100,link_bandwidth=0.01")
    submit(served, (200, 2))
    (answer,) = submit(served, (600, 2))
    compute_s = step_s((0, 600))
    # The link begins with the first layer, and is busy from there on.
    link_s = 600 * TOKEN_KV_BYTES / (0.01 * LINK_BANDWIDTH)
    exposed_s = compute_s / NUM_LAYERS + link_s - compute_s
    assert gaps(answer) == pytest.approx([exposed_s + HOP_S + step_s((600, 601))])


def test_prompts_that_wait_together_are_computed_together() -> None:
    first, *others = submit(fleet(SPLIT), *[(100, 2)] * 3)
    # The first is taken at once; the others' batch forms when its batch has gone.
    one_s, both_s = step_s((0, 100)), step_s((0, 100), (0, 100))
    assert first.ttft_s() == pytest.approx(4 * HOP_S + one_s)
    assert [each.ttft_s() for each in others] == pytest.approx([4 * HOP_S + one_s + both_s] * 2)


def test_a_chunked_step_has_prompts_and_running_sequences() -> None:
    first, second = submit(fleet(CHUNKED), (100, 3), (100, 2))
    first_s = step_s((0, 100))
    mixed_s = step_s((100, 101), (0, 100))
    assert first.ttft_s() == pytest.approx(2 * HOP_S + first_s)
    assert second.ttft_s() == pytest.approx(2 * HOP_S + first_s + mixed_s)
    assert gaps(first) == pytest.approx([mixed_s, step_s((101, 102), (100, 101))])


def test_what_is_cached_is_not_computed() -> None:
    served = fleet("colocated+batching=chunked+prefill-token-budget=512")
    (prompt,) = prompts((320, 1))
    answers = serve_alone(served, [prompt, prompt]).outcomes
    # All but the last block, whose last token is always computed.
    assert answers[0].ttft_s == pytest.approx(2 * HOP_S + step_s((304, 320)))


def test_a_queue_of_equal_prompts_waits_as_long_as_theory_says() -> None:
    """One worker, one prompt a step, Poisson arrivals: M/D/1 (Pollaczek and Khinchine)."""
    served = fleet("colocated+batching=prefill-first+max-batch-tokens=64")
    service_s, load = step_s((0, 64)), 0.6
    rate, num_requests = load / service_s, 4000
    loop = PoissonLoop(rate, 0.0, num_requests / rate)
    rng = random.Random(0)
    endless = (Prompt(tuple(rng.choices(range(10_000), k=64)), 1) for _ in count())
    run = run_open_loop(served, loop, endless, PATIENT)
    mean_s = sum(each.ttft_s or 0.0 for each in run.outcomes) / len(run.outcomes)
    wait_s = load * service_s / (2 * (1 - load))
    assert mean_s == pytest.approx(2 * HOP_S + service_s + wait_s, rel=0.05)


ARMS = [
    "colocated:2+batching=chunked",
    "colocated:2+batching=prefill-first",
    "colocated:2+batching=decode-first",
    "1p2d",
    "2p1d+local-prefill=off",
]


def load(arm: str, sizes: Sequence[tuple[int, int]], interval_s: float) -> tuple[Fleet, list]:
    """Requests at an interval, to their ends."""
    served = fleet(arm)
    answers = [Answer(prompt, number * interval_s) for number, prompt in enumerate(prompts(*sizes))]
    for each in answers:
        served.events.at(each.sent_s, served.gateway.submit, each)
    served.events.run()
    return served, answers


@pytest.mark.parametrize("arm", ARMS)
def test_everybody_is_served_and_nothing_is_left(arm: str) -> None:
    rng = random.Random(arm)
    sizes = [(rng.randint(1, 900), rng.randint(1, 120)) for _ in range(60)]
    # Some 4,000 tokens a worker, so that sequences are preempted as well.
    served, answers = load(f"{arm}+num-blocks=256", sizes, interval_s=0.002)
    assert [each.problem() for each in answers] == [""] * len(answers)
    for worker in served.workers:
        assert worker.state.num_free_blocks == worker.info.num_blocks


def open_run(arm: str, rate: float = 200.0) -> OpenRun:
    sizes = random.Random("sizes")
    endless = (Prompt(tuple(range(sizes.randint(1, 500))), sizes.randint(1, 40)) for _ in count())
    return run_open_loop(fleet(arm), PoissonLoop(rate, 0.1, 0.5), endless, PATIENT)


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_is_the_same_whenever_it_is_made(arm: str) -> None:
    assert open_run(arm).outcomes == open_run(arm).outcomes


def test_only_arrivals_of_the_window_are_measured() -> None:
    outcomes = open_run("1p1d", rate=200.0).outcomes
    assert 70 < len(outcomes) < 130
    assert not any(each.problem for each in outcomes)


def test_who_has_missed_every_bound_is_not_waited_for() -> None:
    served = fleet("1p1d")
    endless = (Prompt(tuple(range(500)), 50) for _ in count())
    run = run_open_loop(served, PoissonLoop(50.0, 0.0, 0.2), endless, {"": Objective(0.01, 1e-5)})
    assert {each.problem for each in run.outcomes} == {"unfinished when the time was over"}
    assert served.events.now_s < 0.3


@pytest.mark.parametrize(
    ("device", "arm"),
    [
        ("cpu", "1p1d"),
        ("mock:h100", "1p1d+tls-dir=x"),
        ("mock:h100", "1p1d+max-num-seqs=0"),
        ("mock:h100", "1p1d+policy=worst-first"),
        ("mock:h100", "1p1d+memory-share=0.1"),
    ],
)
def test_what_cannot_be_simulated_is_refused(device: str, arm: str) -> None:
    with pytest.raises(ConfigError):
        fleet(arm, device)
