"""A worker with a state that only records, for the tests of what is around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from tandem.core.commands import Admit, DecodeCommand
from tandem.core.errors import TandemError
from tandem.core.plan import StepPlan, StepResult
from tandem.core.prefix_cache import PrefixCache
from tandem.core.reports import Armed, DecodeReport, DecodeSnapshot
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.engine.fake.content import fake_layout
from tandem.engine.protocols import KVPool, LayerHook
from tandem.transfer.state_guard import StateGuard
from tandem.worker.preparation import Preparation, Preparations
from tandem.worker.report_log import ReportLog
from tandem.worker.worker import Worker

MODEL = ModelInfo("mock", "f" * 64, 1000, 64, frozenset(), "fake")
INFO = WorkerInfo("w", WorkerRole.DECODE, 77, MODEL, fake_layout(4), 8, 4, "mock:zero")


class RecordedState:
    """A `WorkerState` that answers each `Admit` with an `Armed`, and has no steps unless told. With
    an `error` it is broken."""

    def __init__(self) -> None:
        self.applied: list[DecodeCommand] = []
        self.num_clears = 0
        self.plans: list[StepPlan] = []
        self.plans_ahead: list[StepPlan] = []
        self.completed: list[StepResult] = []
        self.failed: list[TandemError] = []
        self.acknowledged: list[int] = []
        self.error: Exception | None = None
        self.preparations = Preparations()
        self.prepared_ones: list[tuple[Preparation, TandemError | None]] = []
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.prefix_cache = PrefixCache()
        self.reports = ReportLog[DecodeReport]()

    num_unused_slots = 0

    @property
    def num_free_blocks(self) -> int:
        return max(0, 8 - len(self.applied))

    def hashing(self, command: DecodeCommand) -> Iterator[None]:
        yield from ()

    def apply(self, command: DecodeCommand) -> None:
        self.applied.append(command)
        if self.error:
            raise self.error
        if isinstance(command, Admit):
            self.reports.append(armed(command.sequence_id))
        self._note()

    def prepared(self, preparation: Preparation, error: TandemError | None) -> None:
        self.prepared_ones.append((preparation, error))
        self._note()

    def next_step(self) -> StepPlan | None:
        return self.plans.pop() if self.plans else None

    def next_step_ahead(self) -> StepPlan | None:
        return self.plans_ahead.pop() if self.plans_ahead else None

    def layer_hook(self, plan: StepPlan) -> LayerHook | None:
        return None

    def complete(self, plan: StepPlan, result: StepResult, start_ns: int, end_ns: int) -> None:
        self.completed.append(result)
        self.reports.append(armed(plan.number))
        self._note()

    def fail(self, plan: StepPlan, error: TandemError) -> None:
        self.failed.append(error)
        self._note()

    def clear(self) -> None:
        if self.error:
            raise self.error
        self.applied.clear()
        self.num_clears += 1
        self._note()

    def acknowledge(self, report_number: int) -> None:
        self.acknowledged.append(report_number)
        self.reports.acknowledged = report_number
        self._note()

    def snapshot(self) -> DecodeSnapshot:
        return DecodeSnapshot(())

    def _note(self) -> None:
        self._loop.call_soon_threadsafe(self.changed.set)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class NoEngine:
    """An `Engine` that answers with nothing, or fails."""

    model = MODEL
    pool: KVPool

    def __init__(self, runs_ahead: bool = False) -> None:
        self.runs_ahead = runs_ahead
        self.launched: list[int] = []
        self.unlaunchable: int | None = None
        self.error: Exception | None = None
        self.lost = False
        self.closed = False
        self.idle_work: list[Callable[[], None]] = []

    def launch(self, plan: StepPlan, on_layer: LayerHook | None = None) -> NoEngine:
        if plan.number == self.unlaunchable:
            raise RuntimeError("out of memory")
        self.launched.append(plan.number)
        return self

    def result(self) -> StepResult:
        if self.error:
            raise self.error
        return StepResult(())

    def warm_up(self) -> None:
        """There is nothing."""

    def prepare(self, sequence_id: int, params: SamplingParams) -> None:
        if self.error:
            raise self.error

    def use_idle_time(self) -> bool:
        if self.idle_work:
            self.idle_work.pop()()
        return bool(self.idle_work)

    def is_lost(self) -> bool:
        return self.lost

    def close(self) -> None:
        self.closed = True


def armed(sequence_id: int) -> Armed:
    return Armed(sequence_id, position=1, token_id=2, at_ns=3)


def bring(worker: Worker, plan: StepPlan) -> None:
    """Let the state have a next step."""
    with worker.guard.change():
        worker.state.plans.append(plan)


@asynccontextmanager
async def running_worker(
    runs_ahead: bool = False, state: type[RecordedState] = RecordedState
) -> AsyncIterator[Worker]:
    guard = StateGuard(asyncio.get_running_loop())
    worker = Worker(INFO, NoEngine(runs_ahead), state(), guard)
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop()
