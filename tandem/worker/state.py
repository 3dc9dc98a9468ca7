"""What a role must be able to do to be run as a worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from tandem.core.errors import TandemError
from tandem.core.plan import StepPlan, StepResult
from tandem.core.prefix_cache import PrefixCache
from tandem.engine.protocols import LayerHook
from tandem.worker.preparation import Preparation, Preparations
from tandem.worker.report_log import ReportLog

CommandT_contra = TypeVar("CommandT_contra", contravariant=True)
ReportT = TypeVar("ReportT")
SnapshotT_co = TypeVar("SnapshotT_co", covariant=True)


class WorkerState(Protocol[CommandT_contra, ReportT, SnapshotT_co]):
    """A role's whole state: pure, synchronous, and called under the worker's lock, but for
    `hashing`, `layer_hook`, and the event loop's looks at `reports.last_taken` and
    `prefix_cache.has_changes`. `preparations` are in no step before `prepared` is called.

    A sequence's record lives from the first command that names it until its `Remove`, or until the
    controller's lease ends; its blocks may be free long before. A decode worker forgets at once
    what has failed, or goes on elsewhere.
    """

    @property
    def reports(self) -> ReportLog[ReportT]: ...

    @property
    def preparations(self) -> Preparations: ...

    @property
    def num_free_blocks(self) -> int: ...

    @property
    def num_unused_slots(self) -> int:
        """Slots of held blocks that are for none of the tokens that there are: internal
        fragmentation."""
        ...

    @property
    def prefix_cache(self) -> PrefixCache:
        """What of its blocks other sequences may use. Outlives a controller."""
        ...

    def hashing(self, command: CommandT_contra) -> Iterator[None]:
        """Hash what a command brings of prompts, a bit at each step of the iterator, so that
        `apply` and what follows need not. Called before it on the same thread, without the lock."""
        ...

    def apply(self, command: CommandT_contra) -> None:
        """Obey. What comes of it, failures too, is told by a report."""
        ...

    def prepared(self, preparation: Preparation, error: TandemError | None) -> None:
        """A preparation is done, or failed, and its sequence with it."""
        ...

    def next_step(self) -> StepPlan | None:
        """The next step, which is then under way; None if there is nothing to do at present."""
        ...

    def next_step_ahead(self) -> StepPlan | None:
        """The step behind the one that is under way, whose tokens it holds as `PENDING`; None if
        there is nothing to do, or if that must be known first."""
        ...

    def layer_hook(self, plan: StepPlan) -> LayerHook | None:
        """What the engine calls after each layer of the step. Without the lock, as that is."""
        ...

    def complete(self, plan: StepPlan, result: StepResult, start_ns: int, end_ns: int) -> None:
        """A step that was given is done: the first of those under way."""
        ...

    def fail(self, plan: StepPlan, error: TandemError) -> None:
        """A step that was given has failed; its sequences with it."""
        ...

    def clear(self) -> None:
        """The controller is gone: forget every sequence, and free its blocks."""
        ...

    def acknowledge(self, report_number: int) -> None:
        """The controller has all reports up to this one, which `reports` keep: no snapshot need
        repeat them."""
        ...

    def snapshot(self) -> SnapshotT_co:
        """Everything a controller needs that has missed reports."""
        ...
