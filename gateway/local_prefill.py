"""Prompts that a decode worker computes by itself, beside the sequences that it generates.

The weights are read for every step anyway, so prompt tokens in it may cost little. What running
streams pay for them is bounded (`step_budgets.py`), and only paid where it is worth it.

Where tokens are *nearly free*, prompts of any length come whenever that is sooner: the decode
workers are what the prefill workers lack. A prompt of any length also comes to a worker where no
sequence runs and no other prompt is computed. Such a prompt is *patient*: it makes way for who
comes to run beside it, until it would have had its first token elsewhere.

Where every token costs its time and streams pay for it, only prompts come that are through in
`MAX_STEPS` steps. Of longer ones the last that waits for the prefill workers does, one at a time,
while few streams run by what waits before it, and if it is itself no later. If it was said how long
a token may take, prompts of any length come while steps with some of their tokens are in time.

What no prefill worker is there for, or large enough, comes in any case.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf
from typing import Literal, NamedTuple

from gateway.decode_view import DecodeView
from gateway.generation import Generation
from gateway.router import sound
from gateway.shared_state import SharedState
from gateway.step_budgets import (
    HURRIED_BUDGET,
    idle_token_budget,
    num_free_tokens,
    num_on_target,
    token_budget,
)
from gateway.step_times import Pace
from tandem.core.plan import StepRule

LocalPrefillMode = Literal["auto", "idle", "off"]
"""Which prompts decode workers compute: `auto`, all that are described above; `idle`, only patient
ones, and what no prefill worker is there for, or large enough; `off`, none."""

MAX_STEPS = 4
# Of the one prompt that shows what tokens cost there.
MAX_FIRST_STEPS = 16
# Fewer streams may run than so many times what waits: those pay for a prompt that leaves the queue,
# and it hurries as many as come while those that wait are served. That would be one; two were seen
# to be better (docs/experiments.md, Order and local prefill).
MAX_PAYING = 2


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the prefill workers: how many prompts for each before the last, and in how
    many seconds that would have its first token."""

    num_before: float
    seconds: float


class Place(NamedTuple):
    """Where a prompt is to be computed, and for how many seconds it makes way for what runs."""

    worker: DecodeView
    patience_s: float


class LocalPrefill:
    """Sets the decode workers' budgets, and says who of them is to compute a prompt."""

    def __init__(self, shared: SharedState, *, only_idle: bool, tpot_target_s: float) -> None:
        """With `only_idle`, prompts go only to workers where nothing runs. A token of what runs may
        take `tpot_target_s` seconds (0: nobody said). No step is to have more prompt tokens than a
        batch, however little they cost."""
        self._fleet = shared.fleet
        self._outbox = shared.outbox
        self._clock = shared.clock
        self._max_budget = shared.limits.max_batch_tokens
        self._only_idle = only_idle
        self._target_s = tpot_target_s

    def set_budgets(self, workers: Iterable[DecodeView], pace: Pace, num_waiting: float) -> None:
        """Tell workers their budgets, if those have changed, while so many prompts wait for each
        prefill worker; infinitely many if there is none."""
        for worker in workers:
            is_hurried = self._is_hurried(worker, pace, num_waiting)
            budget = token_budget(worker.step_times, pace, is_hurried, self._target_s)
            idle_budget = idle_token_budget(worker.idle_step_times)
            budget, idle_budget = (min(self._max_budget, each) for each in (budget, idle_budget))
            rule = StepRule(budget, mixed=True, idle_token_budget=idle_budget)
            if command := worker.set_step_rule(rule):
                self._outbox.send(worker, command)

    def choose(
        self,
        generation: Generation,
        pace: Pace,
        elsewhere_s: float,
        num_idle_tokens: float,
        *,
        has_prefill: bool,
    ) -> Place | None:
        """Where a queued generation has its first token soonest of the workers with room, if that
        is in less than `elsewhere_s` seconds, and with fewer tokens to compute than
        `num_idle_tokens`, those that a prefill worker would have that is idle. Both are infinite
        where no prefill worker can ever take it. Where there is none at all the queue waits until a
        worker wants more: whose turn it is is decided as late as can be, and a prefill worker may
        be back. Where there is one, that would wait with the queue for no reason."""
        soonest_s, place = elsewhere_s, None
        for worker in self._sound(has_others=elsewhere_s < inf):
            num_tokens = worker.uncached_tokens(generation)
            is_known = worker.step_times.is_measured or elsewhere_s == inf
            if not is_known or num_tokens >= num_idle_tokens:
                continue
            if not (has_prefill or worker.wants_prompts):
                continue
            is_patient = elsewhere_s < inf and not self._may_join(worker, num_tokens, pace)
            if is_patient and (worker.num_running or worker.own_prompts):
                continue
            here_s = (
                _patient_first_token_s(worker, num_tokens, generation, pace)
                if is_patient
                else first_token_s(worker, num_tokens)
            )
            if here_s < soonest_s and worker.can_take(generation):
                soonest_s, place = here_s, Place(worker, elsewhere_s if is_patient else 0.0)
        return place

    def choose_for_last(
        self, generation: Generation, pace: Pace, backlog: Backlog
    ) -> DecodeView | None:
        """The worker with room that has the first token of the last generation of a backlog
        soonest, if that is sooner than the backlog's end, and worth what running streams pay."""
        candidates = (
            (here_s, worker.info.worker_id, worker)
            for worker in self._sound(has_others=True)
            if worker.step_times.is_measured
            and self._may_pay(worker, pace, backlog.num_before)
            and not worker.num_prompt_tokens_left
            and worker.can_take(generation)
            and (here_s := first_token_s(worker, worker.uncached_tokens(generation)))
            < backlog.seconds
        )
        return min(candidates, default=(0.0, "", None))[2]

    def _sound(self, has_others: bool) -> list[DecodeView]:
        """Who may be given a prompt, if there are prefill workers as well, or not."""
        return sound(self._fleet.decode.values(), self._clock.now_s, has_others=has_others)

    def _may_join(self, worker: DecodeView, num_tokens: int, pace: Pace) -> bool:
        """Whether a prompt of so many tokens may be computed beside streams: these pay little, or
        no more than was said."""
        times = worker.step_times
        if not self._may_pay(worker, pace):
            return False
        if num_free_tokens(times, pace.token_s) or (self._target_s and times.largest):
            return True
        num_in_all = worker.num_prompt_tokens_left + num_tokens
        budget = token_budget(times, pace, is_hurried=True, target_s=self._target_s)
        return num_in_all <= _max_steps(worker) * budget

    def _may_pay(self, worker: DecodeView, pace: Pace, num_sooner: float = inf) -> bool:
        """Whether a worker's running streams may be made to pay for a prompt with which so many
        others are sooner: if their tokens are still in time, or, if nobody said what that is, if
        they are few by those."""
        if self._only_idle:
            return False
        if self._target_s and worker.step_times.is_measured:
            return num_on_target(worker.step_times, pace.most_s, self._target_s) >= HURRIED_BUDGET
        return max(1, worker.num_running) < MAX_PAYING * num_sooner

    def _is_hurried(self, worker: DecodeView, pace: Pace, num_waiting: float) -> bool:
        """Whether a worker is to get on with prompts beside what runs, or beside the first that
        might."""
        if num_waiting == inf:
            return True
        if worker.own_prompts.all_make_way(self._clock.now_s):
            return self._may_pay(worker, pace, num_waiting)
        return len(worker.own_prompts) > 0 or not self._only_idle


def first_token_s(worker: DecodeView, num_tokens: int) -> float:
    """In how many seconds a worker would have computed so many prompt tokens more: behind the step
    under way and the prompts that it has."""
    times, budget = worker.prompt_times, worker.step_token_budget
    if not worker.own_prompts:
        # It may still have been told to make way.
        budget = max(HURRIED_BUDGET, budget)
    num_in_all = worker.num_prompt_tokens_left + num_tokens
    own_s = ceil(num_in_all / budget) * times.prompt_step_s + num_in_all * times.token_s
    is_stepping = worker.num_running or worker.own_prompts
    return own_s + times.seconds(budget) if is_stepping else own_s


def _patient_first_token_s(
    worker: DecodeView, num_tokens: int, generation: Generation, pace: Pace
) -> float:
    """As `first_token_s` of a patient prompt, that is, where nothing runs. If any sequence is to
    come it makes way for as long as an answer takes."""
    own_s = first_token_s(worker, num_tokens)
    if not worker.prompt_times.largest:
        # While none was seen tokens seem to cost nothing, whatever their number.
        own_s += num_tokens * pace.token_s
    is_one_coming = len(worker.generations) > len(worker.own_prompts)
    answer_s = generation.typical_tokens * worker.step_times.base_s
    return own_s + answer_s if is_one_coming else own_s


def _max_steps(worker: DecodeView) -> int:
    """Of a prompt. What tokens cost on a worker is learned from one that is longer."""
    is_untried = worker.step_times.largest == 0 and not worker.own_prompts
    return MAX_FIRST_STEPS if is_untried else MAX_STEPS
