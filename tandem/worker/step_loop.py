"""The engine's thread: one step after the other, for as long as there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic_ns
from typing import Any

import structlog

from tandem.core.errors import EngineFailed, TandemError
from tandem.core.plan import StepPlan
from tandem.core.reports import Span, SpanKind
from tandem.engine.protocols import Engine, StepHandle
from tandem.worker.state import WorkerState

log = structlog.get_logger(__name__)

# Steps that may fail one after the other. A worker whose engine always fails would answer faster
# than any that works, and draw all requests: better that it ends, and is started again.
MAX_FAILED_STEPS = 3
# Good steps, one by one, after which an engine that has failed runs ahead again; if no step behind
# another has succeeded since, only so often.
NUM_STEPS_ALONE = 300
MAX_TRIES_AHEAD = 3


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step under way; `waited` says whether the engine had nothing to do before it, `is_behind`
    whether it was launched while another was under way."""

    plan: StepPlan
    handle: StepHandle
    start_ns: int
    waited: bool
    is_behind: bool


class StepLoop:
    """Runs an engine in a thread of its own, on the plans of a `WorkerState`.

    Between two steps it takes the lock, hands in the result and takes the next plan: whatever the
    event loop applied meanwhile is in it, and no message is waited for. An engine that runs ahead
    has its next step, if the state knows it already, before the result of the last one is waited
    for: then the device never waits for the host. Once it has failed its steps go one by one for a
    while. While there is no step the engine may use the time, a little at once. `on_progress` is
    called on this thread when there is something to report, `on_crash` if the thread ends by an
    error of the state's, or since the engine is lost, after which nothing is served any more.
    `under_way` is the step that the thread waits for, to be read by others: the first of two.
    """

    def __init__(
        self,
        engine: Engine,
        state: WorkerState[Any, Any, Any],
        lock: threading.Condition,
        on_span: Callable[[Span], None],
        on_progress: Callable[[], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._state = state
        self._lock = lock
        self._on_span = on_span
        self._on_progress = on_progress
        self._on_crash = on_crash
        self.under_way: StepPlan | None = None
        self._stopping = False
        self._num_failed_steps = 0
        self._num_tries_ahead = 0
        self._num_steps_alone: float = 0
        self._last_end_ns = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the running step end, and the thread with it."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        self._thread.join()

    def _run(self) -> None:
        under_way: LaunchedStep | None = None
        try:
            while True:
                started = self._start_step_behind() if under_way else self._start_step()
                if started is None and under_way is None:
                    return
                is_behind = under_way is not None
                if started and not is_behind:
                    self.under_way = started[0]
                launched = self._launch(*started, is_behind) if started else None
                if under_way:
                    self._finish(under_way)
                self.under_way = launched.plan if launched else None
                if under_way or not launched:
                    self._on_progress()
                under_way = launched
        except BaseException as error:
            self._on_crash(error)
            raise

    def _start_step(self) -> tuple[StepPlan, int, bool] | None:
        """Wait for work: the next plan, when it began, and whether it had to be waited for; None
        when stopping. A step begins when its plan is taken: what comes later is for the next."""
        waited = False
        has_idle_work = True
        while True:
            with self._lock:
                if self._stopping:
                    return None
                had_reports = bool(self._state.reports)
                plan = self._state.next_step()
                if plan is not None:
                    return plan, monotonic_ns(), waited
                waited = True
                if self._state.reports and not had_reports:
                    # Looking for a step can end a sequence, too.
                    self._on_progress()
                if not has_idle_work:
                    self._lock.wait()
                    has_idle_work = True
                    continue
            has_idle_work = self._engine.use_idle_time()

    def _start_step_behind(self) -> tuple[StepPlan, int, bool] | None:
        """The plan of the step behind the one under way, if the engine takes it and it is known."""
        if not self._engine.runs_ahead or self._num_steps_alone:
            return None
        with self._lock:
            plan = None if self._stopping else self._state.next_step_ahead()
        return (plan, monotonic_ns(), False) if plan else None

    def _launch(
        self, plan: StepPlan, start_ns: int, waited: bool, is_behind: bool
    ) -> LaunchedStep | None:
        """None if the step has failed."""
        try:
            handle = self._engine.launch(plan, self._state.layer_hook(plan))
        except Exception as error:
            self._fail_by(plan, error)
            return None
        return LaunchedStep(plan, handle, start_ns, waited, is_behind)

    def _finish(self, step: LaunchedStep) -> None:
        try:
            result = step.handle.result()
        except Exception as error:
            self._fail_by(step.plan, error)
            return
        self._num_failed_steps = 0
        if step.is_behind:
            self._num_tries_ahead = 0
        self._num_steps_alone = max(0, self._num_steps_alone - 1)
        # One that was launched behind another began when that one ended.
        start_ns, end_ns = max(step.start_ns, self._last_end_ns), monotonic_ns()
        self._last_end_ns = end_ns
        plan = step.plan
        with self._lock:
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
            if self._engine.runs_ahead:
                self._run_alone()
            self._count_failure(error, lost)

    def _run_alone(self) -> None:
        """Whatever the engine's failure was, it may not come when no step is behind another."""
        if not self._num_steps_alone:
            self._num_tries_ahead += 1
            is_last = self._num_tries_ahead == MAX_TRIES_AHEAD
            self._num_steps_alone = inf if is_last else NUM_STEPS_ALONE
            log.warning("steps go one by one", num_steps=self._num_steps_alone)
        self._num_steps_alone = max(self._num_steps_alone, NUM_STEPS_ALONE)

    def _fail(self, plan: StepPlan, error: TandemError) -> None:
        """A failed step costs its sequences."""
        sequences = [each.sequence_id for each in plan.slices]
        log.exception("step failed", step=plan.number, sequences=sequences)
        with self._lock:
            self._state.fail(plan, error)

    def _count_failure(self, error: Exception, lost: bool) -> None:
        """Raise if a failure costs the worker as well."""
        self._num_failed_steps += 1
        if lost:
            raise TandemError("the device is in an error that does not heal") from error
        if self._num_failed_steps == MAX_FAILED_STEPS:
            raise TandemError(f"{MAX_FAILED_STEPS} steps failed one after the other") from error
