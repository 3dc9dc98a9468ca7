"""The engine's thread: one step after the other, for as long as there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

import structlog

from tandem.core.errors import EngineFailed, TandemError
from tandem.core.plan import StepPlan
from tandem.core.reports import Span, SpanKind
from tandem.engine.protocols import Engine, StepHandle
from tandem.transfer.state_guard import StateGuard
from tandem.worker.run_ahead import RunAhead
from tandem.worker.state import WorkerState

log = structlog.get_logger(__name__)

# Steps that may fail one after the other. A worker whose engine always fails would answer faster
# than any that works, and draw all requests: better that it ends, and is started again.
MAX_FAILED_STEPS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """A step begins when its plan is taken: what comes later is for the next. `waited` says whether
    the engine had nothing to do before it, `is_behind` whether another was under way then."""

    plan: StepPlan
    start_ns: int
    waited: bool = False
    is_behind: bool = False


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step that the engine has."""

    step: Step
    handle: StepHandle


class StepLoop:
    """Runs an engine in a thread of its own, on the plans of a `WorkerState`.

    Between two steps it takes the guard's lock, hands in the result and takes the next plan:
    whatever the event loop applied meanwhile is in it, and no message is waited for. An engine that
    runs ahead has its next step, if the state knows it already, before the result of the last one
    is waited for: then the device never waits for the host. While there is no step the engine may
    use the time, a little at once. If the thread ends by an error of the state's, or since the
    engine is lost, the worker does. `plan_under_way` is that of the step that the thread waits for,
    to be read by others: the first of two.
    """

    def __init__(
        self,
        engine: Engine,
        state: WorkerState[Any, Any, Any],
        guard: StateGuard,
        on_span: Callable[[Span], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._guard = guard
        self._on_span = on_span
        self.plan_under_way: StepPlan | None = None
        self._stopping = False
        self._num_failed_steps = 0
        self._run_ahead = RunAhead(engine.runs_ahead)
        self._last_end_ns = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the running step end, and the thread with it."""
        with self._guard.change(is_news=False):
            self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        under_way: LaunchedStep | None = None
        try:
            while True:
                step = self._take_step_behind() if under_way else self._take_step()
                if step is None and under_way is None:
                    return
                if step and not under_way:
                    self.plan_under_way = step.plan
                launched = self._launch(step) if step else None
                if under_way:
                    self._finish(under_way)
                self.plan_under_way = launched.step.plan if launched else None
                if under_way or not launched:
                    self._guard.wake()
                under_way = launched
        except BaseException as error:
            self._guard.crashed(error)

    def _take_step(self) -> Step | None:
        """Wait for work; None when stopping."""
        waited = False
        has_idle_work = True
        while True:
            with self._guard.lock:
                if self._stopping:
                    return None
                had_reports = bool(self._state.reports)
                plan = self._state.next_step()
                if self._state.reports and not had_reports:
                    # Looking for a step can end sequences, and batches: no step is waited for.
                    self._guard.wake()
                if plan is not None:
                    return Step(plan, monotonic_ns(), waited=waited)
                waited = True
                if not has_idle_work:
                    self._guard.lock.wait()
                    has_idle_work = True
                    continue
            has_idle_work = self._engine.use_idle_time()

    def _take_step_behind(self) -> Step | None:
        """The step behind the one under way, if the engine takes it and it is known."""
        if not self._run_ahead.is_allowed:
            return None
        with self._guard.lock:
            plan = None if self._stopping else self._state.next_step_ahead()
        return Step(plan, monotonic_ns(), is_behind=True) if plan else None

    def _launch(self, step: Step) -> LaunchedStep | None:
        """None if the step has failed."""
        try:
            handle = self._engine.launch(step.plan, self._state.layer_hook(step.plan))
        except Exception as error:
            self._fail_by(step.plan, error)
            return None
        return LaunchedStep(step, handle)

    def _finish(self, launched: LaunchedStep) -> None:
        step, plan = launched.step, launched.step.plan
        try:
            result = launched.handle.result()
        except Exception as error:
            self._fail_by(plan, error)
            return
        self._num_failed_steps = 0
        self._run_ahead.succeeded(step.is_behind)
        # One that was launched behind another began when that one ended.
        start_ns, end_ns = max(step.start_ns, self._last_end_ns), monotonic_ns()
        self._last_end_ns = end_ns
        with self._guard.lock:
            self._state.complete(plan, result, start_ns, end_ns)
        self._on_span(
            Span(
                SpanKind.STEP,
                start_ns,
                end_ns,
                number=plan.number,
                num_seqs=len(plan.slices),
                num_tokens=plan.num_tokens,
                waited=step.waited,
                num_prefill_tokens=plan.num_prefill_tokens,
            )
        )

    def _fail_by(self, plan: StepPlan, error: Exception) -> None:
        if isinstance(error, TandemError):
            # The engine is well, and has refused the plan.
            self._fail(plan, error)
        else:
            # Waits for the device: what was launched of the step must not write to blocks that are
            # others' by then.
            lost = self._engine.is_lost()
            self._fail(plan, EngineFailed(f"the engine failed: {type(error).__name__}"))
            self._run_ahead.failed()
            self._count_failure(error, lost)

    def _fail(self, plan: StepPlan, error: TandemError) -> None:
        """A failed step costs its sequences."""
        sequences = [each.sequence_id for each in plan.slices]
        log.exception("step failed", step=plan.number, sequences=sequences)
        with self._guard.lock:
            self._state.fail(plan, error)

    def _count_failure(self, error: Exception, lost: bool) -> None:
        """Raise if a failure costs the worker as well."""
        self._num_failed_steps += 1
        if lost:
            raise TandemError("the device is in an error that does not heal") from error
        if self._num_failed_steps == MAX_FAILED_STEPS:
            raise TandemError(f"{MAX_FAILED_STEPS} steps failed one after the other") from error
