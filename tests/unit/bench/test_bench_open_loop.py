"""The open loop, against servers that are functions."""

from __future__ import annotations

import asyncio
from itertools import repeat
from time import perf_counter

import pytest

from tandem.bench.answer import Answer
from tandem.bench.open_loop import OpenLoop, OpenRun, run_open_loop
from tandem.bench.workload import Prompt

PROMPT = Prompt((1, 2, 3), 2)


async def at_once(answer: Answer) -> None:
    answer.sent_s = perf_counter()
    answer.note(perf_counter(), 1)
    answer.note(perf_counter(), 2)


async def never(answer: Answer) -> None:
    answer.note(perf_counter(), 1)
    await asyncio.Event().wait()


async def run(ask, patience_s: float = 5.0, **loop) -> OpenRun:
    settings = {"rate": 400.0, "warm_up_s": 0.05, "measured_s": 0.1, **loop}
    return await run_open_loop(ask, OpenLoop(**settings), repeat(PROMPT), lambda _: patience_s)


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
    assert len(made.intervals) == len(made.outcomes)


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
        await run_open_loop(at_once, OpenLoop(100.0, 0.0, 0.5), iter([PROMPT]), lambda _: 0.0)


async def test_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    await run(never, patience_s=0.0)
    assert asyncio.all_tasks() == before
