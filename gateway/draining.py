"""Workers that are to let go of what they hold: they are about to end, or an operator wants it.

Such a worker gets nothing new. What it is predicted to finish in time stays where it is; the rest
goes on with other workers, from the token that it reached: each as soon as one of them has room and
nobody waits for it, for until then it is best where it is. Shortly before the time is over all that
is left goes on, room or not. Where there are no others everything stays, and so does what no other
of its role is large enough for: what the worker does not finish is lost with it, like anything that
a lost worker holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import inf

from gateway.batching import can_any_take
from gateway.decode_view import DecodeView
from gateway.effects import Outbox
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.lifecycle import Lifecycle
from gateway.prefill_view import PrefillView
from gateway.stages import AttemptEnd
from tandem.core.worker import WorkerRole

# How long before the end what is left is handed over, so that the worker can still let go of it;
# half of the time, if there is less.
HAND_OVER_S = 2.0
# Of those that an operator has taken out of service and that are gone: a worker's name may be its
# container's, and never come again.
MAX_GONE = 256


class Draining:
    """Decides what stays with draining workers, and which of them can be dismissed.

    `needed_roles` are those of which there must be a worker each; `can_ever_run` says whether those
    that do not drain could hold a generation. Times are in monotonic seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        outbox: Outbox,
        needed_roles: Callable[[], Iterable[WorkerRole]],
        can_ever_run: Callable[[Generation], bool],
        lifecycle: Lifecycle,
    ) -> None:
        self._fleet = fleet
        self._outbox = outbox
        self._needed_roles = needed_roles
        self._can_ever_run = can_ever_run
        self._lifecycle = lifecycle
        self._workers: list[PrefillView | DecodeView] = []
        # Those whose time to hand over has yet to come, and what they will not finish until then.
        self._in_time: set[PrefillView | DecodeView] = set()
        self._too_slow: deque[tuple[PrefillView | DecodeView, Generation]] = deque()
        # The epochs of those that an operator has taken out of service: they outlast the view, for
        # a worker whose link was lost joins again as it was.
        self._cordoned: dict[str, int] = {}

    def joined(self, worker: PrefillView | DecodeView, now: float) -> None:
        """A worker is there. What an operator has said of it holds, unless it was started anew."""
        if self._cordoned.get(worker.info.worker_id) == worker.info.epoch:
            worker.cordoned = True
        else:
            self._cordoned.pop(worker.info.worker_id, None)
            self.hand_over(now)

    def stops(self, worker_id: str, timeout_s: float, now: float) -> bool:
        """A worker says that it ends, in `timeout_s` at the latest, or once it is dismissed; False
        if it has said so before."""
        worker = self._fleet.of(worker_id)
        if worker.stopping:
            return False
        worker.stopping = True
        self._begin(worker, timeout_s, now)
        return True

    def cordon(self, worker_id: str, timeout_s: float, now: float) -> PrefillView | DecodeView:
        """Take a worker out of service; what it does not finish in `timeout_s` goes on elsewhere.
        Raises `NotFound`."""
        worker = self._fleet.require(worker_id)
        worker.cordoned = True
        self._cordoned.pop(worker_id, None)
        self._cordoned[worker_id] = worker.info.epoch
        self._forget_gone()
        self._begin(worker, timeout_s, now)
        return worker

    def uncordon(self, worker_id: str, now: float) -> PrefillView | DecodeView:
        """Put a worker back into service, unless it is about to end. Raises `NotFound`."""
        worker = self._fleet.require(worker_id)
        worker.cordoned = False
        self._cordoned.pop(worker_id, None)
        if not worker.stopping:
            self.forget(worker)
        self.hand_over(now)
        return worker

    def forget(self, worker: PrefillView | DecodeView) -> None:
        """A worker serves again, or is gone. Idempotent."""
        if worker in self._workers:
            self._workers.remove(worker)
            self._in_time.discard(worker)
            worker.hand_over_s = inf

    @property
    def next_s(self) -> float:
        """When `hand_over` is to be called next; infinity if that takes no time, but an event. It
        may be over: other things happen at that time, too."""
        return min((each.hand_over_s for each in self._in_time if each.generations), default=inf)

    def hand_over(self, now: float) -> None:
        """Let what draining workers hold go on elsewhere, if their time is over; until then that is
        for `move_on`. To be called when a time has come, and when there is somewhere else anew."""
        self._in_time = {each for each in self._in_time if each.hand_over_s > now}
        self._too_slow.clear()
        if not self._fleet.has_all_open(self._needed_roles()):
            return
        for worker in self._workers:
            for generation in worker.dependents:
                if not self._can_ever_leave(worker, generation):
                    continue
                if worker not in self._in_time:
                    self._lifecycle.requeue(generation, AttemptEnd.DRAINED)
                elif now + _rest_s(generation) >= worker.hand_over_s:
                    self._too_slow.append((worker, generation))

    def move_on(self) -> bool:
        """Let one that will not be finished in time go on elsewhere, if there is room for it now;
        False if there is none. To be called while nobody is queued."""
        while self._too_slow:
            worker, generation = self._too_slow[0]
            is_there = worker.generations.get(generation.sequence_id) is generation
            is_left = is_there and worker in self._in_time and not generation.has_left(worker)
            # Who was large enough for it may be gone.
            if is_left and self._can_ever_leave(worker, generation):
                if not self._has_room(worker, generation):
                    return False
                self._lifecycle.requeue(generation, AttemptEnd.DRAINED)
                self._too_slow.popleft()
                return True
            self._too_slow.popleft()
        return False

    def _can_ever_leave(self, worker: PrefillView | DecodeView, generation: Generation) -> bool:
        """Whether a generation can ever go on without a worker that drains, and another of its role
        is large enough, if there are any: where those are not it stays, even if workers of the
        other role would compute again what this one has."""
        return self._can_ever_run(generation) and can_any_take(self._alike(worker), generation)

    def _alike(self, worker: PrefillView | DecodeView) -> list[PrefillView | DecodeView]:
        """All workers of a worker's role."""
        return [each for each in self._fleet.workers if each.info.role is worker.info.role]

    def _has_room(self, worker: PrefillView | DecodeView, generation: Generation) -> bool:
        """Whether another worker can take what this one has of a generation, and a prefill worker
        its context, unless it is the decode workers that would compute that."""
        needed = tuple(self._needed_roles())
        if not self._fleet.has_all_open(needed):
            return False
        prefill = [each for each in self._fleet.prefill.values() if each.is_open]
        able = [each for each in prefill if each.can_ever_take(generation)]
        if (able or WorkerRole.PREFILL in needed) and not any(each.has_slot for each in able):
            return False
        return any(each.can_take(generation) for each in self._alike(worker))

    def dismiss(self) -> None:
        """Say goodbye to those that are about to end and hold nothing any more."""
        for worker in self._workers:
            if worker.stopping and not worker.generations and not worker.dismissed:
                worker.dismissed = True
                self._outbox.dismiss(worker)

    def _forget_gone(self) -> None:
        """The newest that are gone may come again."""
        present = {worker.info.worker_id for worker in self._fleet.workers}
        gone = [worker_id for worker_id in self._cordoned if worker_id not in present]
        for worker_id in gone[:-MAX_GONE]:
            del self._cordoned[worker_id]

    def _begin(self, worker: PrefillView | DecodeView, timeout_s: float, now: float) -> None:
        """Of several times the earliest counts."""
        if worker not in self._workers:
            self._workers.append(worker)
        for generation in worker.generations.values():
            if generation.prefill_worker == worker.info.worker_id:
                # Whoever waited for it could not be computed where its KV is.
                self._lifecycle.doubt(generation)
        hand_over_s = now + timeout_s - min(HAND_OVER_S, timeout_s / 2)
        worker.hand_over_s = min(worker.hand_over_s, hand_over_s)
        self._in_time.add(worker)
        self.hand_over(now)


def _rest_s(generation: Generation) -> float:
    """Seconds that its workers still have to do with a generation, as far as can be told: with its
    context, and with as many tokens as it is expected to have."""
    rest_s = 0.0
    decode, prefill = generation.decode, generation.prefill
    if prefill and not generation.armed:
        rest_s += prefill.queued_s + generation.num_tokens_left * prefill.step_times.token_s
    if decode:
        if generation.is_local and not generation.armed:
            rest_s += decode.num_prompt_tokens_left * decode.step_times.token_s
        num_tokens_left = generation.expected_length - generation.length
        rest_s += num_tokens_left * decode.step_times.base_s
    return rest_s
