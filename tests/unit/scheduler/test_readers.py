"""Who is told that a generation has something for its reader."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from functools import partial

import pytest
from lone_gateway import new_dispatcher, new_scheduler
from sim_worker import worker_info

from gateway.answer import Answer
from gateway.choice import Choice
from gateway.generation import Generation
from gateway.generation_streams import GenerationStreams
from gateway.request_metrics import RequestMetrics
from gateway.text import TokenText
from gateway.tokens import MAX_TAKEN, Ended, ServedBy, Token, TokenRequest
from tandem.core.errors import Cancelled, Unavailable
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

PARAMS = SamplingParams(max_tokens=5, seed=0)


async def test_a_reader_that_fails_costs_no_other_its_end() -> None:
    scheduler = new_scheduler()
    for name, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
        scheduler.worker_joined(worker_info(name, role, 1, 100, 16), f"{name}:1")
    dispatcher = new_dispatcher(scheduler)
    failing, other = (
        dispatcher.submit(TokenRequest(name, (5,) * 8, PARAMS)) for name in ("failing", "other")
    )
    told = asyncio.Event()
    failing.subscribe(lambda: 1 / 0)
    other.subscribe(told.set)
    dispatcher.end_all()
    await asyncio.wait_for(told.wait(), 10)
    with pytest.raises(Unavailable):
        other.take()


class Letters:
    """A detokeniser to whom each token is a letter."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


class Control:
    """Ends generations as their readers want it."""

    def __init__(self) -> None:
        self.streams = GenerationStreams(self, RequestMetrics(), time.monotonic, "mock")

    def stop_generation(self, generation: Generation) -> Ended:
        ended = Ended(FinishReason.STOP, ServedBy("p", "d"))
        self.streams.emit(generation, ended)
        return ended

    def cancel(self, generation: Generation) -> None:
        if generation in self.streams._streams:
            self.streams.emit(generation, Cancelled("nobody waits"))


class Reader:
    """Takes what comes of an answer in the calls that bring it."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.num_events = 0
        self.errors: list[str] = []
        answer.subscribe(self._read)

    def _read(self) -> None:
        try:
            self.num_events += len(self.answer.take())
        except Unavailable as error:
            self.errors.append(error.message)


def answer_of(control: Control, generation: Generation) -> Answer:
    """Of one choice, which "#" ends."""
    return Answer(
        request_id="r",
        model="mock",
        num_prompt_tokens=1,
        choices=[Choice(0, control.streams.open(generation), TokenText(Letters(), ["#"]))],
        on_close=lambda: None,
    )


async def test_who_waits_is_told_that_somebody_else_has_cancelled() -> None:
    """Of the answer, and of the stream itself."""
    control = Control()
    first, second = (Generation(TokenRequest("r", (5,), PARAMS), number) for number in (1, 2))
    answer = answer_of(control, first)
    waiting = asyncio.ensure_future(anext(answer, None))
    told = asyncio.Event()
    stream = control.streams.open(second)
    stream.subscribe(told.set)
    await asyncio.sleep(0)
    answer.cancel()
    stream.cancel()
    async with asyncio.timeout(10):
        assert await waiting is None
        await told.wait()
    with pytest.raises(Cancelled):
        stream.take()


async def test_what_a_slow_reader_takes_costs_no_more_for_what_it_leaves() -> None:
    control = Control()
    generation = Generation(TokenRequest("r", (5,), PARAMS), 1)
    stream = control.streams.open(generation)
    tokens = [Token(position, 5) for position in range(1, 50_000)]
    for each in tokens:
        control.streams.emit(generation, each)
    taken = [*stream.take()]
    tracemalloc.start()
    taken += stream.take()
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most_bytes < 50_000
    assert taken == tokens[: 2 * MAX_TAKEN]


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("how", ["ends", "fails", "is stopped", "is left"])
async def test_what_is_over_goes_at_once_and_not_when_garbage_is_collected(
    how: str, uncollected: None
) -> None:
    """It has the prompt."""
    control = Control()
    generation = Generation(TokenRequest("r", (5,), PARAMS), 1)
    reader = Reader(answer_of(control, generation))
    stream = reader.answer._choices[0].tokens
    emit = partial(control.streams.emit, generation)
    emit(Token(1, ord("a")))
    await asyncio.sleep(0)
    assert reader.num_events == 1
    match how:
        case "ends":
            emit(Ended(FinishReason.LENGTH, ServedBy("p", "d")))
        case "fails":
            emit(Unavailable("the worker left"))
        case "is stopped":
            emit(Token(2, ord("#")))
        case "is left":
            reader.answer.cancel()
    # What comes of that, too.
    for _ in range(3):
        await asyncio.sleep(0)
    assert not reader.answer.is_open
    assert reader.errors == (["the worker left"] if how == "fails" else [])
    kept = weakref.ref(stream), weakref.ref(reader.answer), weakref.ref(reader)
    del stream, reader
    assert [each() for each in kept] == [None, None, None]
