"""What is seen of requests from outside."""

from __future__ import annotations

import asyncio

from rich.console import Console

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import UNFINISHED
from tandem.bench.watch import Watch
from tandem.bench.workload import Prompt
from tandem.cli.bench_progress import progress, progress_text

PROMPT = Prompt((1, 2), 2)


async def serve(answer: Answer) -> None:
    answer.arrivals = [(answer.sent_s + 0.5, 1), (answer.sent_s + 0.75, 2)]


async def never(answer: Answer) -> None:
    await asyncio.Event().wait()


async def test_what_is_asked_is_noted_with_when_it_was_due() -> None:
    watch = Watch(serve, 60)
    await watch.ask(Answer(PROMPT, 10.0))
    (asked,) = watch.asked
    assert asked.due_s == 10.0
    assert asked.ended_s and asked.ended_s >= asked.began_s
    assert (watch.num_ended, watch.num_running, watch.num_failed) == (1, 0, 0)


async def test_what_takes_too_long_is_ended() -> None:
    watch = Watch(never, 0.01)
    answer = Answer(PROMPT, 10.0)
    await watch.ask(answer)
    assert answer.problem() == "not over after 0.01 s"
    assert watch.num_failed == 1


async def test_what_is_cut_off_has_not_failed() -> None:
    watch = Watch(never, 60)
    answer = Answer(PROMPT, 10.0)
    task = asyncio.create_task(watch.ask(answer))
    await asyncio.sleep(0)
    assert watch.num_running == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (answer.error, watch.num_running, watch.num_failed) == (UNFINISHED, 0, 0)


async def test_progress_tells_counts_and_times() -> None:
    watch = Watch(serve, 60)
    for due_s in (10.0, 11.0):
        await watch.ask(Answer(PROMPT, due_s))
    text = progress_text(watch, 4.0).plain
    assert "4 s  2 done, 0 under way, 0 failed  0.50 requests/s" in text
    assert "TTFT 500 ms  between tokens 250 ms" in text
    assert progress_text(Watch(serve, 60), 0.0).plain


def test_nobody_is_told_where_nobody_looks() -> None:
    assert progress(Console(force_terminal=False)) is None
    assert progress(Console(force_terminal=True)) is not None
