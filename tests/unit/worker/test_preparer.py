"""The thread that prepares an engine for sequences."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fake_state import RecordedState

from tandem.core.errors import TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.sampling_params import SamplingParams
from tandem.transfer.state_guard import StateGuard
from tandem.worker.preparation import Preparation
from tandem.worker.preparer import Preparer

PARAMS = SamplingParams(max_tokens=1, seed=0, grammar=Grammar(GrammarKind.REGEX, "a*"))


class Panic(BaseException):
    """As an extension's panic is: no `Exception`."""


class Panics:
    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        raise Panic


class Slow:
    """Until `go` is set."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.go = threading.Event()

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        self.began.append(sequence_id)
        self.go.wait(10)


def arrived(state: RecordedState, *sequence_ids: int) -> list[Preparation]:
    for each in sequence_ids:
        state.preparations.arrive(each, PARAMS, "r")
    return state.preparations.take_due()


async def test_a_thread_that_ends_is_told() -> None:
    guard = StateGuard(asyncio.get_running_loop())
    state = RecordedState()
    preparer = Preparer(Panics(), state, guard)  # type: ignore[arg-type]
    preparer.start(arrived(state, 1))
    with pytest.raises(TandemError, match="broken: Panic"):
        await asyncio.wait_for(guard.crash, 10)
    preparer.stop()
    assert state.prepared_ones == []


async def test_who_leaves_before_its_turn_keeps_nobody_waiting() -> None:
    guard = StateGuard(asyncio.get_running_loop())
    state, engine = RecordedState(), Slow()
    preparer = Preparer(engine, state, guard)  # type: ignore[arg-type]
    first, left, last = arrived(state, 1, 2, 3)
    preparer.start([first, left, last])
    with guard.change():
        state.preparations.leave(2)
    engine.go.set()
    await state.until(lambda: len(state.prepared_ones) == 2)
    preparer.stop()
    assert engine.began == [1, 3]
    assert state.prepared_ones == [(first, None), (last, None)]


async def test_what_is_prepared_can_be_seen_to_hang() -> None:
    """Those behind it would wait for ever, on a worker that is well otherwise."""
    guard = StateGuard(asyncio.get_running_loop())
    state, engine = RecordedState(), Slow()
    preparer = Preparer(engine, state, guard)  # type: ignore[arg-type]
    assert preparer.under_way is None
    preparer.start(arrived(state, 1, 2))
    async with asyncio.timeout(10):
        while not engine.began:
            await asyncio.sleep(0.01)
    first = preparer.under_way
    assert first == "preparing sequence 1"
    assert preparer.under_way is first
    engine.go.set()
    await state.until(lambda: len(state.prepared_ones) == 2)
    await asyncio.to_thread(preparer.stop)
    assert preparer.under_way is None
