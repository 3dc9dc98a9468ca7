"""What is taken for a step that hangs, and when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from fake_state import NoEngine, bring, running_worker

from tandem.core.plan import StepPlan, StepResult
from tandem.worker import step_watch
from tandem.worker.step_watch import HUNG_STATUS, TURN_S, Watch, watch_work

TIMEOUT_S = 1.0
NUM_TURNS = int(TIMEOUT_S / TURN_S)


def num_turns(watch: Watch, plan: StepPlan, limit: int = 1000) -> int | None:
    """After how many turns a step is taken to hang; None if it is not."""
    return next((number for number in range(limit) if watch.hangs(plan)), None)


def test_a_step_hangs_once_it_has_been_under_way_for_so_long() -> None:
    assert num_turns(Watch(TIMEOUT_S), StepPlan(1, ())) == NUM_TURNS


def test_each_step_has_its_own_time() -> None:
    """Also one that is equal to the one before."""
    watch = Watch(TIMEOUT_S)
    for _ in range(3):
        plan = StepPlan(1, ())
        assert not any(watch.hangs(plan) for _ in range(NUM_TURNS))
    assert num_turns(watch, StepPlan(2, ())) == NUM_TURNS


def test_between_steps_there_is_nothing_to_hang() -> None:
    watch, plan = Watch(TIMEOUT_S), StepPlan(1, ())
    assert not any(watch.hangs(plan) for _ in range(NUM_TURNS))
    assert not any(watch.hangs(None) for _ in range(3 * NUM_TURNS))
    assert num_turns(watch, plan) == NUM_TURNS


def test_without_a_timeout_a_step_may_take_for_ever() -> None:
    assert num_turns(Watch(0.0), StepPlan(1, ())) is None


async def test_a_process_that_stood_still_does_not_blame_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long a turn took by the clock, since the process was stopped, it is one turn."""
    now_s, num_slept, told = 0.0, 0, []
    sleep = asyncio.sleep

    async def stopped(seconds: float) -> None:
        nonlocal num_slept, now_s
        num_slept += 1
        now_s += 3600.0
        await sleep(0)

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(step_watch.asyncio, "sleep", stopped)
    plan = StepPlan(7, ())
    await watch_work([lambda: None, lambda: plan], TIMEOUT_S, told.append)
    assert num_slept == NUM_TURNS + 1
    assert told == ["step 7 of 0 sequences and 0 tokens has not ended for 1 s"]


@pytest.mark.parametrize(
    "end",
    [
        "step_watch.end_at_once('it hangs')",
        # As in Python 3.12, while the interpreter waits for other threads.
        "step_watch.end_within(0.01, lambda: None); threading.Thread.start = None; hang.wait()",
    ],
    ids=["at once", "while it ends"],
)
def test_a_process_whose_words_nobody_reads_ends_all_the_same(end: str) -> None:
    code = (
        "import os, threading\n"
        "from tandem.worker import step_watch\n"
        "os.set_blocking(2, False)\n"
        "try:\n"
        "    while True: os.write(2, bytes(4096))\n"
        "except BlockingIOError:\n"
        "    os.set_blocking(2, True)\n"
        "step_watch.SAY_S, hang = 0.01, threading.Event()\n"
        f"{end}\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(30) == HUNG_STATUS
        finally:
            process.kill()


class HangingEngine(NoEngine):
    """Comes back from nothing before it is let."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self.reached = threading.Event()
        self.let = threading.Event()

    def _hang(self, where: str) -> None:
        if where == self._where:
            self.reached.set()
            assert self.let.wait(30)

    def launch(self, plan: StepPlan, on_layer: object = None) -> NoEngine:
        self._hang("launch")
        return super().launch(plan)

    def result(self) -> StepResult:
        self._hang("result")
        if self._where == "is_lost":
            raise RuntimeError("the step failed")
        return super().result()

    def is_lost(self) -> bool:
        self._hang("is_lost")
        return False


@pytest.mark.parametrize("where", ["launch", "result", "is_lost"])
async def test_a_step_is_under_way_from_its_launch_to_its_landing(where: str) -> None:
    async with running_worker() as worker:
        engine = worker._steps._engine = HangingEngine(where)
        assert worker.step_under_way() is None
        plan = StepPlan(1, ())
        bring(worker, plan)
        await asyncio.to_thread(engine.reached.wait, 10)
        try:
            assert worker.step_under_way() is plan
        finally:
            engine.let.set()
        async with asyncio.timeout(10):
            while worker.step_under_way():
                await asyncio.sleep(0.01)
