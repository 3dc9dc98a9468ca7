"""Where generations begin, begin again, and end: each of these is done in one place."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.admission import Admission
from gateway.decode_view import DecodeView
from gateway.generation import Generation, Phase
from gateway.output_lengths import OutputLengths
from gateway.prefill_view import PrefillView
from gateway.shared_state import SharedState
from gateway.stages import AttemptEnd
from gateway.tokens import Ended, TokenRequest
from tandem.core.commands import Remove
from tandem.core.errors import EngineFailed, TandemError


class Lifecycle:
    """Lets generations in, takes them back from their workers, and ends them. `lengths` is what is
    known of how long answers get."""

    def __init__(
        self, shared: SharedState, admission: Admission, sequence_ids: Iterator[int]
    ) -> None:
        """Attempts are numbered from `sequence_ids`."""
        self.lengths = OutputLengths()
        self._fleet = shared.fleet
        self._shares = shared.shares
        self._queue = shared.queue
        self._admission = admission
        self._self_checks = shared.self_checks
        self._outbox = shared.outbox
        self._sequence_ids = sequence_ids
        self._clock = shared.clock

    def begin(self, request: TokenRequest) -> Generation:
        """Queue a request. Raises what `Admission.enter` does, and what the policy does."""
        now, number, token_s = self._clock.now_s, next(self._sequence_ids), self._fleet.token_s()
        generation = Generation(request, number, now, token_s, self.lengths)
        generation.prefix = self._fleet.prefix_of(request)
        generation.expected_cached_tokens = self._fleet.cached_tokens(generation)
        # Before it is counted anywhere, and so has to be ended.
        self._queue.check(generation)
        self._admission.enter(generation, now)
        self._queue.push(generation)
        return generation

    def is_late(self, generation: Generation, after_s: float = 0.0) -> bool:
        """Whether a queued one cannot be in time for its deadline if nobody begins with it for so
        many seconds."""
        return self._admission.is_late(generation, self._clock.now_s + after_s)

    def arm(self, generation: Generation, worker: DecodeView) -> None:
        """Its KV is complete on its decode worker, where others find it. Idempotent."""
        worker.armed(generation)
        self._queue.done(generation)

    def end(self, generation: Generation, event: Ended | TandemError) -> None:
        """The one place where generations end; one that has ended does not end again. An armed
        one's transfer is complete but perhaps not acknowledged: its prefill worker keeps the record
        until it is, or until that fails too; unless that has more to tell."""
        if generation.phase is Phase.ENDED:
            return
        if generation.phase is Phase.QUEUED:
            self._queue.remove(generation)
        self._give_back(generation)
        if isinstance(event, Ended) and generation.token_ids:
            self.lengths.observe(len(generation.token_ids))
        self._admission.leave(generation, self._clock.now_s)
        generation.end_attempt(self._clock.now_s)
        generation.phase = Phase.ENDED
        self._outbox.emit(generation, event)
        self._leave_decode(generation)
        if not generation.armed or generation.awaits_scores:
            self.leave_prefill(generation)
        self._queue.done(generation)
        self._self_checks.ended(generation, event)

    def requeue(self, generation: Generation, why: AttemptEnd) -> None:
        """Take a generation from its workers, and put it back to its place in the queue."""
        self._give_back(generation)
        self._shares.begins_again(generation, why)
        self._leave_decode(generation)
        self.leave_prefill(generation)
        generation.restart(next(self._sequence_ids), self._clock.now_s, why)
        # Its rank is by what is not cached, and stays while it is queued.
        generation.expected_cached_tokens = self._fleet.cached_tokens(generation)
        self._queue.push(generation)
        self._queue.done(generation)

    def doubt(self, generation: Generation) -> None:
        """One of its workers may be lost, or is to let go of it: nobody waits for it any more."""
        self._queue.done(generation)

    def restart(self, generation: Generation) -> None:
        """Its worker is lost, or the way to it: another attempt follows."""
        self.requeue(generation, AttemptEnd.WORKER_LOST)

    def restart_or_end(self, generation: Generation, error: TandemError) -> None:
        """Likewise; it ends with `error` if that was tried too often."""
        if generation.can_restart:
            self.restart(generation)
        else:
            self.end(generation, error)

    def worker_lost(self, worker: PrefillView | DecodeView, error: TandemError) -> None:
        """A worker is gone: nothing is left to be told to it, and those that need it go on
        elsewhere, or end likewise."""
        dependents = worker.dependents
        for generation in worker.generations.values():
            generation.forget(worker)
        for generation in dependents:
            if generation.phase is Phase.RESERVING and isinstance(worker, PrefillView):
                # Which had not been told of it.
                self.requeue(generation, AttemptEnd.UNANSWERED)
            else:
                self.restart_or_end(generation, error)

    def step_failed(self, generation: Generation, error: EngineFailed) -> None:
        """Its worker's engine failed, with it and others in a step. All go on elsewhere, like after
        a loss; but who `fails_steps` ends, so that the others meet it no third time."""
        if generation.fails_steps:
            self.end(generation, error)
        else:
            self.restart_or_end(generation, error)
        # Not before: another attempt forgets what failed before a step that was well.
        generation.num_failed_steps += 1

    def leave_prefill(self, generation: Generation) -> None:
        """Its prefill worker need not know it any more. Idempotent."""
        if worker := generation.prefill:
            generation.prefill = None
            worker.leave(generation)
            self._outbox.send(worker, Remove(generation.sequence_id))

    def _give_back(self, generation: Generation) -> None:
        """Nothing was computed yet of what the tenant of a reserving one was charged for."""
        if generation.phase is Phase.RESERVING:
            self._shares.give_back(generation)

    def _leave_decode(self, generation: Generation) -> None:
        if worker := generation.decode:
            generation.decode = None
            worker.leave(generation)
            self._outbox.send(worker, Remove(generation.sequence_id))
