"""The worker's threads and its lease."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from time import monotonic_ns

import pytest
from fake_state import INFO, NoEngine, RecordedState, armed, bring, running_worker
from standing_plan_driver import Moves

from decode_service.standing_plan import StandingPlan
from tandem.core import prefix_cache
from tandem.core.commands import Admit, Reserve
from tandem.core.errors import Fenced, InvalidRequest, TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.plan import StepPlan, StepResult
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import DecodeSnapshot, Preempted, Span, SpanKind
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import EndRule, SequenceKey
from tandem.transfer.state_guard import StateGuard
from tandem.worker import run_ahead
from tandem.worker.lease import Controller
from tandem.worker.worker import Worker


async def test_an_expired_lease_frees_everything_without_a_word_from_anybody() -> None:
    plan = StandingPlan(
        layout=INFO.layout,
        num_blocks=8,
        max_num_seqs=4,
        end_rule=EndRule(frozenset(), 64),
        clock_ns=monotonic_ns,
        prefix_caching=True,
        mover=Moves(),
    )
    worker = Worker(INFO, NoEngine(), plan, StateGuard(asyncio.get_running_loop()))
    worker.start()
    try:
        worker.acquire(Controller("a", 1, 0.05))
        params = SamplingParams(max_tokens=4, seed=0)
        worker.apply([Reserve(1, SequenceKey("r"), (1, 2, 3), 4, params)])
        assert plan.num_free_blocks == 6
        worker.news.clear()
        await asyncio.wait_for(worker.news.wait(), 10)
        assert worker.lease.holder is None
        assert plan.num_free_blocks == 8
        assert plan.snapshot() == DecodeSnapshot(())
        assert worker.applied_command == 0
    finally:
        await worker.stop()


async def test_a_draining_worker_is_released_when_its_controller_lets_go() -> None:
    async with running_worker() as worker:
        assert worker.draining_ms is None
        async with asyncio.timeout(10):
            await worker.released()  # Nobody holds it yet.
        worker.acquire(Controller("a", 1, 3600.0))
        worker.news.clear()
        worker.drain(60.0)
        assert worker.news.is_set(), "the controller is told at once"
        assert 0 < worker.draining_ms <= 60_000
        released = asyncio.create_task(worker.released())
        await asyncio.sleep(0)
        assert not released.done()
        worker.release_lease()
        async with asyncio.timeout(10):
            await released


async def test_a_renewed_lease_does_not_expire() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 3600.0))
        clears = worker.state.num_clears
        for _ in range(20):
            worker.lease.renew(0.0)
            worker.acquire(Controller("a", 1, 3600.0))
            await asyncio.sleep(0)
        assert worker.state.num_clears == clears


async def test_a_short_lease_after_a_long_one_expires_in_its_own_time() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 3600.0))
        await asyncio.sleep(0)
        worker.release_lease()
        await asyncio.sleep(0)
        worker.acquire(Controller("b", 2, 0.05))
        clears = worker.state.num_clears
        await worker.state.until(lambda: worker.state.num_clears > clears)
        assert worker.lease.holder is None


async def test_a_controller_that_comes_back_finds_what_it_had() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 3600.0))
        worker.apply([Admit(1)])
        worker.acquire(Controller("a", 1, 3600.0))
        assert (worker.state.applied, worker.applied_command) == ([Admit(1)], 1)
        worker.acquire(Controller("a", 2, 3600.0))
        assert (worker.state.applied, worker.applied_command) == ([], 0)


async def test_a_step_is_run_reported_and_drawn() -> None:
    async with running_worker() as worker:
        bring(worker, StepPlan(7, ()))
        await worker.state.until(lambda: bool(worker.state.completed))
        async with asyncio.timeout(10):
            while not (reports := worker.take_reports()):
                await worker.news.wait()
            while not (spans := worker.take_spans()):
                await asyncio.sleep(0)
        assert reports == [armed(7)]
        assert [(span.kind, span.number) for span in spans] == [(SpanKind.STEP, 7)]


async def test_a_step_says_whether_the_engine_waited_for_it() -> None:
    is_idle = threading.Event()
    async with running_worker() as worker:
        worker._engine.idle_work.append(is_idle.set)
        with worker.guard.change():
            """It finds that."""
        assert await asyncio.to_thread(is_idle.wait, 10)
        with worker.guard.change():
            worker.state.plans += [StepPlan(2, ()), StepPlan(1, ())]
        await worker.state.until(lambda: len(worker.state.completed) == 2)
        spans: list[Span] = []
        async with asyncio.timeout(10):
            while len(spans) < 2:
                await asyncio.sleep(0)
                spans += worker.take_spans()
        assert [(span.number, span.waited) for span in spans] == [(1, True), (2, False)]


class PreemptingState(RecordedState):
    """Looking for a step leads to a report: as if the step had no room for somebody."""

    def next_step(self) -> StepPlan | None:
        plan = super().next_step()
        if plan:
            self.reports.append(Preempted(plan.number))
        return plan


async def test_what_comes_of_looking_for_a_step_is_told_before_the_step_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()
    async with running_worker(state=PreemptingState) as worker:
        monkeypatch.setattr(worker._engine, "result", lambda: is_over.wait(10) and StepResult(()))
        try:
            bring(worker, StepPlan(7, ()))
            worker.news.clear()  # That there may be a step.
            await asyncio.wait_for(worker.news.wait(), 5)
            assert worker.take_reports() == [Preempted(7)]
        finally:
            is_over.set()


async def test_a_step_may_begin_while_a_large_cache_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_worker() as worker:
        worker.state.prefix_cache.add([3], [bytes(32)])

        def slow(hashes: Sequence[bytes]) -> Sequence[int]:
            bring(worker, StepPlan(7, ()))
            assert completed.wait(5), "the engine's thread gets the lock"
            return [5] * len(hashes)

        completed = threading.Event()
        monkeypatch.setattr(worker.state, "complete", lambda *done: completed.set())
        monkeypatch.setattr(prefix_cache, "digests", slow)
        assert worker.take_cache_changes(whole=True) == CacheChanges(added=(5,), whole=True)


async def test_an_engine_that_fails_costs_its_step_and_not_the_worker() -> None:
    async with running_worker() as worker:
        worker._engine.error = RuntimeError("CUDA error: secret address")
        bring(worker, StepPlan(1, ()))
        await worker.state.until(lambda: bool(worker.state.failed))
        assert "secret" not in worker.state.failed[0].message
        assert worker.state.failed[0].reason == "ENGINE_FAILED"
        worker._engine.error = None
        bring(worker, StepPlan(2, ()))
        await worker.state.until(lambda: bool(worker.state.completed))


async def test_an_engine_that_runs_ahead_has_its_next_step_before_the_result() -> None:
    async with running_worker(runs_ahead=True) as worker:
        worker.state.plans_ahead = [StepPlan(3, ()), StepPlan(2, ())]
        bring(worker, StepPlan(1, ()))
        await worker.state.until(lambda: len(worker.state.completed) == 3)
        assert worker._engine.launched == [1, 2, 3]


async def test_after_a_step_behind_another_has_failed_they_go_one_by_one() -> None:
    """Those that succeed alone would hide that the others never do."""
    async with running_worker(runs_ahead=True) as worker:
        worker._engine.unlaunchable = 2
        worker.state.plans_ahead = [StepPlan(3, ()), StepPlan(2, ())]
        bring(worker, StepPlan(1, ()))
        await worker.state.until(lambda: bool(worker.state.completed and worker.state.failed))
        bring(worker, StepPlan(4, ()))
        await worker.state.until(lambda: len(worker.state.completed) == 2)
        assert worker._engine.launched == [1, 4]


async def fail_behind(worker: Worker, number: int) -> None:
    """Run a step, and let the one behind it fail, if it is launched."""
    state = worker.state
    before = len(state.completed)
    worker._engine.unlaunchable = number + 1
    state.plans_ahead = [StepPlan(number + 1, ())]
    bring(worker, StepPlan(number, ()))
    await state.until(lambda: len(state.completed) > before)


async def test_after_some_good_steps_they_go_behind_one_another_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(run_ahead.log, "warning", lambda event, **details: told.append(event))
    monkeypatch.setattr(run_ahead, "NUM_STEPS_ALONE", 3)
    async with running_worker(runs_ahead=True) as worker:
        # The first of three good ones is under way when the one behind it fails.
        for number in (1, 11, 21):
            await fail_behind(worker, number)
            assert len(worker.state.failed) == 1
        assert told == ["steps go one by one"]
        await fail_behind(worker, 31)
        assert len(worker.state.failed) == len(told) == 2


async def fail_steps(worker: Worker, *errors: Exception | None) -> None:
    """Run a step for each: one that fails with it, or succeeds."""
    state = worker.state
    for error in errors:
        outcomes = state.completed if error is None else state.failed
        before = len(outcomes)
        worker._engine.error = error
        bring(worker, StepPlan(1, ()))
        await state.until(lambda outcomes=outcomes, before=before: len(outcomes) > before)


async def test_an_engine_that_always_fails_ends_the_worker() -> None:
    broken = RuntimeError("secret address")
    async with running_worker() as worker:
        await fail_steps(worker, broken, broken, None, broken, broken)
        assert not worker.guard.crash.done()
        await fail_steps(worker, broken)
        with pytest.raises(TandemError, match="3 steps failed one after the other"):
            await asyncio.wait_for(worker.guard.crash, 10)
        assert len(worker.state.failed) == 5


async def test_a_device_that_does_not_heal_ends_the_worker_at_once() -> None:
    async with running_worker() as worker:
        worker._engine.lost = True
        await fail_steps(worker, RuntimeError("device-side assert"))
        with pytest.raises(TandemError, match="does not heal"):
            await asyncio.wait_for(worker.guard.crash, 10)
        assert worker.state.failed[0].message == "the engine failed: RuntimeError"


async def test_plans_that_an_engine_refuses_do_not_count_as_its_failures() -> None:
    async with running_worker() as worker:
        await fail_steps(worker, *[InvalidRequest("no such token")] * 5, None)
        assert {each.reason for each in worker.state.failed} == {"INVALID_REQUEST"}
        assert not worker.guard.crash.done()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, ""),
        (InvalidRequest("too complex"), "too complex"),
        (ValueError("secret address"), "the engine failed: ValueError"),
    ],
)
async def test_the_engine_is_prepared_beside_its_steps(error: Exception | None, told: str) -> None:
    async with running_worker() as worker:
        worker._engine.error = error
        grammar = Grammar(GrammarKind.REGEX, "a*")
        params = SamplingParams(max_tokens=1, seed=0, grammar=grammar)
        worker.state.preparations.arrive(1, params, "r")
        worker.apply([])
        await worker.state.until(lambda: bool(worker.state.prepared_ones))
        ((prepared, failure),) = worker.state.prepared_ones
        assert (prepared.sequence_id, prepared.params) == (1, params)
        assert (failure.message if failure else "") == told
        assert worker.state.failed == []


async def test_stopping_drops_all_and_closes_the_engine() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 3600.0))
        worker.apply([Admit(1)])
    assert worker.state.applied == []
    assert worker._engine.closed


async def test_an_error_in_the_state_is_not_survived_in_silence() -> None:
    async with running_worker() as worker:
        worker.state.next_step = None  # type: ignore[method-assign,assignment]
        with worker.guard.lock:
            worker.guard.lock.notify_all()
        with pytest.raises(TandemError, match="TypeError"):
            await asyncio.wait_for(worker.guard.crash, 10)


async def test_a_state_that_breaks_under_a_command_ends_the_worker() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 3600.0))
        worker.state.error = AssertionError("block 7 is freed twice")
        with pytest.raises(AssertionError):
            worker.apply([Admit(1)])
        assert worker.applied_command == 0
        with pytest.raises(TandemError, match="broken: AssertionError"):
            await asyncio.wait_for(worker.guard.crash, 10)


async def test_a_state_that_breaks_as_something_is_prepared_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_worker() as worker:
        monkeypatch.setattr(worker.state, "prepared", None)
        params = SamplingParams(max_tokens=1, seed=0, grammar=Grammar(GrammarKind.REGEX, "a*"))
        worker.state.preparations.arrive(1, params, "r")
        worker.apply([])
        with pytest.raises(TandemError, match="broken: TypeError"):
            await asyncio.wait_for(worker.guard.crash, 10)


async def test_a_state_that_breaks_at_a_leases_end_ends_the_worker() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 0.05))
        worker.state.error = AssertionError("block 7 is freed twice")
        with pytest.raises(TandemError, match="broken: AssertionError"):
            await asyncio.wait_for(worker.guard.crash, 10)
    assert worker._engine.closed, "it ends in order"


async def test_a_lease_that_nobody_watches_any_more_ends_the_worker() -> None:
    async with running_worker() as worker:
        worker.lease.is_expired = None  # type: ignore[method-assign,assignment]
        worker.acquire(Controller("a", 1, 3600.0))
        with pytest.raises(TandemError, match="broken: TypeError"):
            await asyncio.wait_for(worker.guard.crash, 10)


async def test_who_is_refused_has_broken_nothing() -> None:
    async with running_worker() as worker:
        worker.acquire(Controller("a", 1, 3600.0))
        with pytest.raises(Fenced):
            worker.acquire(Controller("b", 2, 3600.0))
        await asyncio.sleep(0)
        assert not worker.guard.crash.done()
