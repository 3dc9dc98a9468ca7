from __future__ import annotations

import asyncio
import threading

from fake_state import INFO, NoEngine, RecordedState

from tandem.core.plan import StepPlan
from tandem.worker.worker import Worker


async def test_an_engine_uses_idle_time_and_a_step_waits_for_a_piece_of_it_at_the_most() -> None:
    engine, state, lock = NoEngine(), RecordedState(), threading.Condition()
    launched_before: list[int] = []
    is_done = threading.Event()

    def work() -> None:
        launched_before.append(len(engine.launched))

    def bring_step() -> None:
        work()
        with lock:  # Nobody has it meanwhile.
            state.plans.append(StepPlan(1, ()))

    def finish() -> None:
        work()
        is_done.set()

    engine.idle_work += [finish, work, bring_step]  # From the last on.
    worker = Worker(INFO, engine, state, lock)
    worker.start()
    assert await asyncio.to_thread(is_done.wait, 10)
    await worker.stop()
    assert launched_before == [0, 1, 1]
