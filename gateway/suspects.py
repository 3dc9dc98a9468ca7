"""Workers that may be lost: they are silent, or their stream broke.

Such a worker gets nothing new. What it holds goes on with others that do what it does, but only
once one of these was heard since: while nobody is heard, it is this gateway's own network that is
at fault, and whoever comes back holds what it held. The first that comes back says nothing of the
others until their links had the time to be back, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from gateway.decode_view import DecodeView
from gateway.fleet import Fleet
from gateway.generation import Generation, Phase
from gateway.lifecycle import Lifecycle
from gateway.liveness import RECONNECT_S
from gateway.prefill_view import PrefillView
from gateway.stages import AttemptEnd
from tandem.core.worker import WorkerRole

# How long a worker has to be back before any other's word counts: streams that break together do so
# one after the other, and a new one is there in a tenth of a second.
PATIENCE_S = 0.25


class Suspects:
    """Decides what of them moves, and when. Times are in monotonic seconds. Workers of the needed
    roles do also what those of the others do."""

    def __init__(
        self,
        fleet: Fleet,
        lifecycle: Lifecycle,
        needed_roles: Callable[[], Sequence[WorkerRole]],
    ) -> None:
        self._fleet = fleet
        self._lifecycle = lifecycle
        self._needed_roles = needed_roles
        # Those whose generations have yet to move.
        self._workers: list[PrefillView | DecodeView] = []
        # What moved before it was answered for, by the worker that was asked for its blocks.
        self._unanswered: dict[PrefillView | DecodeView, list[Generation]] = {}

    def suspected(self, worker: PrefillView | DecodeView, now: float) -> None:
        """A worker may be lost. What it has not even answered for moves at once, if there is
        another: nothing is lost with that, and a batch may be waiting for it."""
        worker.suspected_s = now
        self._workers.append(worker)
        has_another = any(map(self._fleet.has_open, self._roles_for(worker)))
        for generation in list(worker.generations.values()):
            self._lifecycle.doubt(generation)
            if has_another and generation.phase is Phase.RESERVING:
                self._ask_another(generation, worker)

    def trusted(self, worker: PrefillView | DecodeView, now: float) -> None:
        """It is well, and holds what it held."""
        worker.trusted_s = now
        self._forget(worker)

    def lost(self, worker: PrefillView | DecodeView) -> None:
        """It is gone. Unless it was let go, what it was asked for may be why, also if that has
        moved meanwhile."""
        if not worker.dismissed:
            for generation in self._unanswered.get(worker, ()):
                generation.setbacks.count(AttemptEnd.WORKER_LOST)
        self._forget(worker)

    def heard(self, worker: PrefillView | DecodeView, now: float) -> bool:
        """A worker was heard. Whether anything has moved."""
        moving = [each for each in self._workers if self._gives_way(each, worker, now)]
        for each in moving:
            self._workers.remove(each)
            self._move(each)
        return bool(moving)

    def _forget(self, worker: PrefillView | DecodeView) -> None:
        worker.suspected_s = inf
        self._unanswered.pop(worker, None)
        if worker in self._workers:
            self._workers.remove(worker)

    def _roles_for(self, worker: PrefillView | DecodeView) -> set[WorkerRole]:
        """Those of the workers that do what a worker does."""
        role, needed = worker.info.role, self._needed_roles()
        return {role} if role in needed else {role, *needed}

    def _ask_another(self, generation: Generation, worker: PrefillView | DecodeView) -> None:
        """But not for what has taken several down, it may be, that were asked: that waits for
        this one, and no batch with it."""
        if generation.decode is worker:
            if not generation.can_restart:
                if generation.grant is None:
                    self._lifecycle.leave_prefill(generation)
                return
            self._unanswered.setdefault(worker, []).append(generation)
        self._lifecycle.requeue(generation, AttemptEnd.UNANSWERED)

    def _gives_way(
        self, suspect: PrefillView | DecodeView, heard: PrefillView | DecodeView, now: float
    ) -> bool:
        was_away = heard.trusted_s >= suspect.suspected_s
        believed_s = heard.trusted_s + RECONNECT_S if was_away else suspect.suspected_s + PATIENCE_S
        does_the_same = heard.info.role in self._roles_for(suspect)
        return heard.is_open and does_the_same and now >= believed_s

    def _move(self, worker: PrefillView | DecodeView) -> None:
        for generation in worker.dependents:
            if generation.phase is Phase.RESERVING:
                self._ask_another(generation, worker)
            elif generation.can_restart:
                self._lifecycle.restart(generation)
