"""The open loop, against servers that are functions."""

from __future__ import annotations

import asyncio
import time
from itertools import repeat
from math import inf
from time import perf_counter

import pytest

from tandem.bench import open_loop
from tandem.bench.answer import Answer
from tandem.bench.arrivals import poisson_arrivals
from tandem.bench.open_loop import OpenLoop, OpenRun, run_open_loop
from tandem.bench.workload import Prompt
from tandem.core.errors import Unavailable

PROMPT = Prompt((1, 2, 3), 2)


async def at_once(answer: Answer) -> None:
    answer.sent_s = perf_counter()
    answer.note(perf_counter(), 1)
    answer.note(perf_counter(), 2)


async def never(answer: Answer) -> None:
    answer.note(perf_counter(), 1)
    await asyncio.Event().wait()


async def run(ask, patience_s: float = 5.0, rate: float = 400.0, **loop) -> OpenRun:
    settings = {"warm_up_s": 0.05, "measured_s": 0.1, **loop}
    made = OpenLoop(**{"arrivals": poisson_arrivals(rate, seed=0), **settings})
    return await run_open_loop(ask, made, repeat(PROMPT), lambda _: patience_s)


async def test_only_arrivals_of_the_window_are_measured() -> None:
    asked = []

    async def ask(answer: Answer) -> None:
        asked.append(answer)
        await at_once(answer)

    made = await run(ask)
    whole = await run(ask, warm_up_s=0.0, measured_s=0.15)
    # The same arrivals: those of the first third are not measured, but were asked.
    assert 0 < len(made.outcomes) < len(whole.outcomes)
    assert len(asked) >= 2 * len(whole.outcomes)
    assert not any(each.problem for each in made.outcomes)
    assert len(made.itl) == len(made.outcomes)


async def test_the_loop_is_open() -> None:
    """Requests come although none before them is answered."""
    waiting = 0
    many = asyncio.Event()

    async def ask(answer: Answer) -> None:
        nonlocal waiting
        waiting += 1
        if waiting >= 10:
            many.set()
        await many.wait()
        await at_once(answer)

    made = await run(ask)
    assert len(made.outcomes) >= 10
    assert not any(each.problem for each in made.outcomes)


async def test_who_is_not_served_in_time_has_failed() -> None:
    made = await run(never, patience_s=0.0)
    assert made.outcomes
    assert all(each.ttft_s is None for each in made.outcomes)
    assert {each.problem for each in made.outcomes} == {"unfinished when the time was over"}


async def test_the_load_goes_on_until_the_measured_are_done() -> None:
    """The last measured request is answered when one that came after the window is."""
    first_done = asyncio.Event()
    count = 0

    async def ask(answer: Answer) -> None:
        nonlocal count
        count += 1
        if count == 1:
            await first_done.wait()
        elif count > 100:
            first_done.set()
        await at_once(answer)

    made = await run(ask, warm_up_s=0.0, measured_s=0.02, patience_s=60.0)
    assert len(made.outcomes) < 50
    assert not any(each.problem for each in made.outcomes)


async def test_dilation_stretches_the_arrivals_and_not_the_window() -> None:
    plain = await run(at_once, rate=2000.0, warm_up_s=0.0, measured_s=0.02)
    dilated = await run(at_once, rate=2000.0, warm_up_s=0.0, measured_s=0.02, dilation=5.0)
    assert len(plain.outcomes) == len(dilated.outcomes)


async def test_a_bug_of_the_loop_is_raised() -> None:
    with pytest.raises(RuntimeError):
        loop = OpenLoop(poisson_arrivals(100.0, seed=0), measured_s=0.5)
        await run_open_loop(at_once, loop, iter([PROMPT]), lambda _: 0.0)


@pytest.mark.parametrize("concurrency", [0, 1000])
async def test_a_loop_that_is_late_leaves_nobody_out(concurrency: int) -> None:
    """It stands still until long after the window; who was due there is asked all the same."""
    asked = []

    async def ask(answer: Answer) -> None:
        if not asked:
            time.sleep(0.15)  # noqa: ASYNC251 - that is what it is about
        asked.append(answer)
        await at_once(answer)

    made = await run(ask, warm_up_s=0.0, measured_s=0.1, concurrency=concurrency)
    in_time = await run(at_once, warm_up_s=0.0, measured_s=0.1)
    assert len(made.outcomes) == len(in_time.outcomes)


async def test_no_more_are_under_way_than_there_are_places() -> None:
    """As fast as there is room: a closed loop, whose requests are due when there is a place."""
    under_way, most, answers = 0, 0, []

    async def ask(answer: Answer) -> None:
        nonlocal under_way, most
        answers.append((answer, answer.sent_s))
        under_way += 1
        most = max(most, under_way)
        # As many turns of the loop as it takes others to come.
        for _ in range(10):
            await asyncio.sleep(0)
        under_way -= 1
        await at_once(answer)

    made = await run(
        ask, arrivals=repeat(0.0), warm_up_s=0.0, measured_s=inf, num_measured=20, concurrency=3
    )
    assert most == 3
    assert len(made.outcomes) == 20
    assert all(answer.is_measured for answer, _ in answers)
    dues = [due_s for _, due_s in answers]
    assert dues[0] == dues[2] < dues[3]
    assert dues == sorted(dues)


async def test_arrivals_that_end_are_waited_for() -> None:
    made = await run(at_once, arrivals=[0.0, 0.001, 0.02], warm_up_s=0.0, measured_s=inf)
    assert len(made.outcomes) == 3
    assert not any(each.problem for each in made.outcomes)


async def test_who_has_no_place_is_due_when_there_is_one() -> None:
    released = asyncio.Event()
    dues = []

    async def ask(answer: Answer) -> None:
        dues.append(answer.sent_s)
        if len(dues) == 1:
            asyncio.get_running_loop().call_later(0.05, released.set)
            await released.wait()
        await at_once(answer)

    await run(ask, arrivals=[0.0, 0.001], warm_up_s=0.0, measured_s=inf, concurrency=1)
    assert dues[1] - dues[0] >= 0.05


async def test_who_finds_no_place_by_the_end_is_not_measured() -> None:
    made = await run(never, patience_s=0.0, warm_up_s=0.0, concurrency=2)
    assert [each.problem for each in made.outcomes] == ["unfinished when the time was over"] * 2


CLOSED = {"arrivals": repeat(0.0), "warm_up_s": 0.0, "measured_s": inf, "concurrency": 2}


async def nobody(answer: Answer) -> None:
    answer.found_nobody = True
    answer.error = "cannot connect"


async def test_a_closed_loop_ends_when_nobody_is_there_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not before the answer that is still coming has come."""
    monkeypatch.setattr(open_loop, "PAUSE_S", 0.0)
    asked: list[Answer] = []
    last = asyncio.Event()

    async def ask(answer: Answer) -> None:
        asked.append(answer)
        if len(asked) == 1:
            await last.wait()
            await at_once(answer)
            return
        await nobody(answer)
        if len(asked) == 11:
            asyncio.get_running_loop().call_later(0.02, last.set)

    with pytest.raises(Unavailable, match="the last 10 requests found nobody to serve them"):
        await run(ask, **CLOSED, num_measured=1000)
    assert len(asked) == 11
    assert asked[0].num_tokens == 2


async def test_a_server_that_comes_back_goes_on_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_loop, "PAUSE_S", 0.0)
    asked: list[Answer] = []

    async def ask(answer: Answer) -> None:
        asked.append(answer)
        await (nobody if len(asked) % 10 else at_once)(answer)

    made = await run(ask, **CLOSED, num_measured=100)
    assert sum(not each.problem for each in made.outcomes) == 10


async def test_who_finds_nobody_waits_before_it_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each would ask thousands of times a second."""
    monkeypatch.setattr(open_loop, "PAUSE_S", 3600.0)
    made = await run(nobody, **{**CLOSED, "measured_s": 0.05}, patience_s=0.0)
    assert [each.problem for each in made.outcomes] == ["cannot connect"] * 2


async def test_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    await run(never, patience_s=0.0)
    assert asyncio.all_tasks() == before
