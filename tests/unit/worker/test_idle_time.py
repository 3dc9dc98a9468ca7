from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from fake_state import INFO, NoEngine, RecordedState

from tandem.core.plan import StepPlan
from tandem.transfer.state_guard import StateGuard
from tandem.worker.worker import Worker


class Idler:
    """A worker whose engine has idle work; `began` says before how many steps each piece was."""

    def __init__(self) -> None:
        self.engine, self.state = NoEngine(), RecordedState()
        guard = StateGuard(asyncio.get_running_loop())
        self.lock = guard.lock
        self.worker = Worker(INFO, self.engine, self.state, guard)
        self.began: list[int] = []

    def piece(self, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
        def work() -> None:
            self.began.append(len(self.engine.launched))
            then()

        return work

    def bring_step(self) -> None:
        """From another thread, as commands come."""
        thread = threading.Thread(target=self.add_step)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "the lock is held meanwhile"

    def add_step(self) -> None:
        with self.lock:
            self.state.plans.append(StepPlan(1, ()))


@pytest.fixture
async def idler() -> AsyncIterator[Idler]:
    idler = Idler()
    yield idler
    await idler.worker.stop()


async def test_a_step_waits_for_one_piece_of_idle_work_at_the_most(idler: Idler) -> None:
    is_done = threading.Event()
    # From the last on.
    idler.engine.idle_work += [
        idler.piece(is_done.set),
        idler.piece(),
        idler.piece(idler.bring_step),
    ]
    idler.worker.start()
    assert await asyncio.to_thread(is_done.wait, 10)
    assert idler.began == [0, 1, 1]


async def test_idle_work_that_comes_while_idle_is_done_without_a_step(idler: Idler) -> None:
    is_idle, is_done = threading.Event(), threading.Event()
    idler.engine.idle_work.append(idler.piece(is_idle.set))
    idler.worker.start()
    assert await asyncio.to_thread(is_idle.wait, 10)
    idler.engine.idle_work.append(idler.piece(is_done.set))
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(is_done.wait, 0.01):
            with idler.lock:  # A command that brings no step, as often as it takes.
                idler.lock.notify_all()
    assert idler.began == [0, 0]
