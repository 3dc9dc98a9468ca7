"""When things will have happened, by the pace that was measured of the workers.

Work alone is counted, so what is foretold is rather too early than too late: who is refused for it
could not have been served in time. While no pace is known, everything is foretold to happen at
once.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.decode_view import DecodeView
from gateway.fleet import Fleet
from gateway.generation import Generation, Phase
from gateway.prefill_queue import PrefillQueue

# How much the newest answer's end counts.
END_WEIGHT = 0.1


class Forecast:
    """Of a fleet and of what waits for it. All times are in seconds from now."""

    def __init__(self, fleet: Fleet, queue: PrefillQueue) -> None:
        self._fleet = fleet
        self._queue = queue
        self._last_end_s = 0.0
        self._end_interval_s = 0.0

    def next_place_s(self) -> float:
        """Until a prompt more has left the queue: by the pace of computing them, or by that of the
        answers' ends, whichever is slower."""
        mean_tokens = self._queue.num_tokens_left / self._queue.num_in_all
        return max(self._wait_s(mean_tokens), self._end_interval_s)

    def ended(self, now: float) -> None:
        """A generation that had left the queue has ended, at `now` in monotonic seconds."""
        if self._last_end_s:
            interval_s = now - self._last_end_s
            weight = END_WEIGHT if self._end_interval_s else 1.0
            self._end_interval_s += weight * (interval_s - self._end_interval_s)
        # While nobody waits ends are as far apart as arrivals, which says nothing of the pace.
        self._last_end_s = now if self._queue else 0.0

    def work_s(self, generation: Generation) -> float:
        """How long the rest of a prompt takes at the least."""
        return generation.num_tokens_left * self._fleet.least_token_s()

    def first_token_s(self, generation: Generation) -> float:
        """Until the first token of a generation that is queued, or would be."""
        num_before = self._queue.num_tokens_before(generation)
        return self._wait_s(num_before, generation) + self.work_s(generation)

    def end_s(self, generation: Generation) -> float:
        """Until a generation has become as long as answers go."""
        wait_s = self.first_token_s(generation) if generation.phase is Phase.QUEUED else 0.0
        num_to_come = generation.typical_tokens - len(generation.token_ids)
        return wait_s + max(0, num_to_come) * self._step_s(generation.decode)

    def _step_s(self, decode: DecodeView | None) -> float:
        """A step of a decode worker; of the quickest while none is chosen."""
        workers = [decode] if decode else self._fleet.decode.values()
        times = (worker.step_times.base_s for worker in workers)
        return min(filter(None, times), default=0.0)

    def _wait_s(self, num_tokens: float, generation: Generation | None = None) -> float:
        """Until so many prompt tokens are computed, and what the workers have already; of prompts
        that have started only what is computed before a generation at the least, if one is named.
        """
        pace = list(self._pace(generation))
        if not pace:
            return 0.0
        soonest_s = min(busy_s for _, busy_s in pace)
        return soonest_s + num_tokens / sum(rate for rate, _ in pace)

    def _pace(self, generation: Generation | None) -> Iterator[tuple[float, float]]:
        """Of each worker that may compute prompts: how many tokens a second, and how many seconds
        it is busy with those that it has, or with those of them that go before a generation."""
        for prefill in self._fleet.prefill.values():
            if prefill.is_open and (token_s := prefill.step_times.token_s):
                started = prefill.started.values()
                if generation:
                    num_started = self._queue.num_tokens_ahead(generation, started)
                else:
                    num_started = sum(each.num_tokens_left for each in started)
                yield 1 / token_s, prefill.queued_s + num_started * token_s
        for decode in self._fleet.decode.values():
            if decode.is_open and (token_s := self._decode_token_s(decode)):
                yield 1 / token_s, decode.num_prompt_tokens_left * token_s

    def _decode_token_s(self, worker: DecodeView) -> float:
        """What a prompt token takes on a decode worker: all its steps' time, where there are no
        others for it; else its steps are shared. 0 if it is not known, or gets none."""
        if not self._fleet.prefill:
            return worker.step_times.token_s
        budget = worker.step_token_budget
        return worker.prompt_times.seconds(budget) / budget if budget else 0.0
