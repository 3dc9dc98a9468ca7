"""A worker: an engine, the role's state, and the controller that both obey."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

import structlog

from tandem.core.plan import StepPlan
from tandem.core.prefix_cache import CacheChanges
from tandem.core.reports import Span
from tandem.core.span_totals import SpanTotals
from tandem.core.worker import WorkerInfo
from tandem.engine.protocols import Engine
from tandem.transfer.state_guard import StateGuard
from tandem.worker.lease import Controller, ControllerLease
from tandem.worker.preparer import Preparer
from tandem.worker.state import WorkerState
from tandem.worker.step_loop import StepLoop

log = structlog.get_logger(__name__)

CommandT = TypeVar("CommandT")
ReportT = TypeVar("ReportT")
SnapshotT = TypeVar("SnapshotT")

MAX_PENDING_SPANS = 4096
# How long messages are read before an expired lease is believed to be.
UNREAD_S = 0.25


class Worker(Generic[CommandT, ReportT, SnapshotT]):
    """A role's state, the engine's thread, and the controller's lease.

    Methods are called on the event loop, but for those that say otherwise; other threads come to
    the state by its `guard`, whose `news` are what there is to report.
    """

    def __init__(
        self,
        info: WorkerInfo,
        engine: Engine,
        state: WorkerState[CommandT, ReportT, SnapshotT],
        guard: StateGuard,
    ) -> None:
        self.info = info
        self.state = state
        self.guard = guard
        self.news = guard.news
        self.lease = ControllerLease()
        self.applied_command = 0
        self._engine = engine
        self.totals = SpanTotals()
        self.num_expired_leases = 0
        self._spans: deque[Span] = deque(maxlen=MAX_PENDING_SPANS)
        self._drain_until_s: float | None = None
        self._lease_changed = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._lease_task: asyncio.Task[None] | None = None
        self._preparer = Preparer(engine, state, guard)
        self._steps = StepLoop(engine, state, guard, self.add_span)

    def start(self) -> None:
        self._steps.start()
        self._lease_task = asyncio.create_task(self._watch_lease(), name="lease")
        self._lease_task.add_done_callback(self._lease_watch_ended)

    async def stop(self) -> None:
        """Let the running step end; every sequence is dropped, unless the state is broken."""
        if self._lease_task:
            self._lease_task.cancel()
        if not self.guard.crash.done():
            self._clear()
        await asyncio.to_thread(self._preparer.stop)
        await asyncio.to_thread(self._steps.stop)
        self._engine.close()

    def step_under_way(self) -> StepPlan | None:
        """What the engine's thread waits for."""
        return self._steps.plan_under_way

    def preparation_under_way(self) -> str | None:
        """What the preparing thread waits for."""
        return self._preparer.under_way

    def add_span(self, span: Span) -> None:
        """Note what was done, for the timeline. Callable from any thread; the oldest are dropped
        if no controller takes them."""
        self.totals.add(span)
        self._spans.append(span)

    def drain(self, timeout_s: float) -> None:
        """The worker is to end in so many seconds: from now on the controller is told, which gives
        it nothing new, and says goodbye when nothing is left."""
        self._drain_until_s = monotonic() + timeout_s
        self.news.set()

    @property
    def is_draining(self) -> bool:
        return self._drain_until_s is not None

    @property
    def draining_ms(self) -> int | None:
        """In how many milliseconds the worker ends at the latest; None if it does not drain."""
        if self._drain_until_s is None:
            return None
        return max(0, int((self._drain_until_s - monotonic()) * 1000))

    async def released(self) -> None:
        """Wait until no controller holds the worker: it then holds no sequence, either."""
        await self._released.wait()

    def acquire(self, controller: Controller) -> None:
        """A controller opens its stream. Raises `Fenced` if it may not."""
        if self.lease.acquire(controller, monotonic()):
            self._clear()
            log.info("controller", controller=controller.controller_id, term=controller.term)
        self._released.clear()
        self._lease_changed.set()

    async def hash_ahead(self, commands: Sequence[CommandT]) -> None:
        """Hash the prompts that commands bring, before they are applied. Steps begin meanwhile, and
        other tasks go on."""
        for command in commands:
            for _ in self.state.hashing(command):
                await asyncio.sleep(0)

    def apply(self, commands: Sequence[CommandT]) -> None:
        """Apply one numbered batch of commands, as a whole, between two steps."""
        with self.guard.change():
            for command in commands:
                self.state.apply(command)
            self._preparer.start(self.state.preparations.take_due())
        self.applied_command += 1

    def release_lease(self) -> None:
        """The controller has said goodbye."""
        self.lease.release()
        self._clear()
        self._released.set()

    def take_reports(self) -> Sequence[ReportT]:
        self.news.clear()
        with self.guard.lock:
            return self.state.reports.take()

    def acknowledge(self, report_number: int) -> None:
        """The controller has the reports up to this one. A number that was never given is of
        another life of this worker, and says nothing."""
        reports = self.state.reports
        if reports.acknowledged < report_number <= reports.last_taken:
            with self.guard.change(is_news=False):
                self.state.acknowledge(report_number)

    def take_snapshot(self) -> SnapshotT:
        """The state as of now; the reports that led to it are dropped."""
        with self.guard.lock:
            self.state.reports.take()
            return self.state.snapshot()

    def take_cache_changes(self, whole: bool) -> CacheChanges | None:
        """What has changed of the prefix cache since the last call, or all of it; None if nothing
        has."""
        cache = self.state.prefix_cache
        if not whole and not cache.has_changes:
            return None
        # Digests are worked out without the lock: steps begin meanwhile.
        if whole:
            with self.guard.lock:
                hashes = cache.take_hashes()
            return CacheChanges.all_of(hashes)
        with self.guard.lock:
            changes = cache.take_changes()
        return CacheChanges.of(changes)

    def num_free_blocks(self) -> int:
        """Callable from any thread."""
        with self.guard.lock:
            return self.state.num_free_blocks

    def num_unused_slots(self) -> int:
        """Callable from any thread. Looks at every sequence."""
        with self.guard.lock:
            return self.state.num_unused_slots

    def take_spans(self) -> list[Span]:
        return [self._spans.popleft() for _ in range(len(self._spans))]

    def _clear(self) -> None:
        self.applied_command = 0
        with self.guard.change():
            self.state.clear()

    def _lease_watch_ended(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and (error := watch.exception()):
            log.error("the lease is not watched any more")
            self.guard.crashed(error)

    async def _watch_lease(self) -> None:
        """End an expired lease, and its sequences, whether or not any message comes."""
        while True:
            if self.lease.is_expired(monotonic()):
                # If it was this process that stood still, what its controller said is yet unread.
                await asyncio.sleep(UNREAD_S)
            if (holder := self.lease.holder) and self.lease.is_expired(monotonic()):
                self.num_expired_leases += 1
                log.warning("lease expired", controller=holder.controller_id)
                self.release_lease()
            # A new holder's lease may be over sooner than the one that is waited for.
            self._lease_changed.clear()
            remaining_s = self.lease.expires_at - monotonic() if self.lease.holder else None
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining_s):
                    await self._lease_changed.wait()
