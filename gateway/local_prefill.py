"""Prompts that a decode worker computes by itself, beside the sequences that it generates.

The weights are read for every step anyway, so prompt tokens in it may cost little. What running
streams pay for them is bounded, by the times that the worker's steps were seen to take.

Where a step has to read for longer than it computes, as on a GPU, tokens are *nearly free*: as many
as their arithmetic fits into the time of a step without them. That is known when steps with such
tokens were seen to take little longer. Then the step takes that many, and prompts of any length
come whenever that is sooner: the decode workers are what the prefill workers lack.

Where every token costs its time, as on most CPUs, a step has `MIN_BUDGET` prompt tokens, or as many
as let it take `MAX_STRETCH` times as long as one without, and only prompts come of which what is
not cached here is through in `MAX_STEPS` such steps: every stream pays for longer ones all the
while. Of these the last that waits for the prefill workers comes, one at a time, if more wait there
than are here: each of its tokens delays these by as much as it hurries those, and it is itself no
later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf

from gateway.effects import Outbox
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.step_times import MAX_GROWTH, StepTimes
from gateway.worker_view import DecodeView
from tandem.core.commands import SetStepRule
from tandem.core.plan import StepRule

MAX_STRETCH = 1.25
MAX_STEPS = 4
# Of the one prompt that shows what tokens cost there.
MAX_FIRST_STEPS = 16
# For tokens that are nearly free: how much of the time of a step without them their arithmetic may
# take, and how long the step with them may be seen to take.
FREE_SHARE = 0.75
MAX_FREE_STRETCH = 1.25
# Prompt tokens of a step at the least: a short prompt is to be through in two or three, and a row
# more costs less the more there are. As many while nothing is known.
MIN_BUDGET = 16
# At the most, before any was seen: prefill workers may be faster than this one.
MAX_FIRST_BUDGET = 128
# A budget that differs by less stays.
BUDGET_CHANGE = 0.25


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the prefill workers: how many prompts for each, and in how many seconds the
    last of them would have its first token."""

    num_prompts: float
    seconds: float


class LocalPrefill:
    """Sets the decode workers' budgets, and says who of them is to compute a prompt."""

    def __init__(self, fleet: Fleet, outbox: Outbox, max_budget: int) -> None:
        """No step is to have more than `max_budget` prompt tokens, however little they cost."""
        self._max_budget = max_budget
        self._fleet = fleet
        self._outbox = outbox

    def set_budgets(self, workers: Iterable[DecodeView], token_s: float, least_s: float) -> None:
        """Tell workers their budget, if that has changed. `token_s` and `least_s` are as
        `token_budget` takes them."""
        for worker in workers:
            known, times = worker.prefill_token_budget, worker.step_times
            budget = min(self._max_budget, token_budget(times, token_s, least_s))
            if abs(budget - known) > BUDGET_CHANGE * known:
                worker.prefill_token_budget = budget
                rule = StepRule(budget, mixed=True)
                self._outbox.send(worker, SetStepRule(rule))

    def choose(
        self, generation: Generation, elsewhere_s: float, num_idle_tokens: float = inf
    ) -> DecodeView | None:
        """The worker with room that has a queued generation's first token soonest, if that is in
        less than `elsewhere_s` seconds, and with fewer tokens to compute than `num_idle_tokens`,
        those that a prefill worker would have that is idle. Where `elsewhere_s` is infinite, or
        tokens are nearly free, a prompt may have any length."""
        token_s = self._fleet.token_s()
        candidates = (
            (first_token_s(worker, num_tokens), worker.info.worker_id, worker)
            for worker in self._fleet.decode.values()
            if worker.step_times.is_measured
            and (num_tokens := worker.uncached_tokens(generation)) < num_idle_tokens
            and (
                elsewhere_s == inf
                or num_steps(worker, num_tokens) <= _max_steps(worker)
                or num_free_tokens(worker.step_times, token_s)
            )
            and worker.can_take(generation)
        )
        soonest_s, _, worker = min(candidates, default=(elsewhere_s, "", None))
        return worker if soonest_s < elsewhere_s else None

    def choose_for_last(self, generation: Generation, backlog: Backlog) -> DecodeView | None:
        """The worker with room that has the first token of the last generation of a backlog
        soonest, if that is sooner than the backlog's end, and worth what running streams pay."""
        candidates = (
            (here_s, worker.info.worker_id, worker)
            for worker in self._fleet.decode.values()
            if worker.step_times.is_measured
            and len(worker.generations) < backlog.num_prompts
            and not worker.num_prompt_tokens_left
            and worker.can_take(generation)
            and (here_s := first_token_s(worker, worker.uncached_tokens(generation)))
            < backlog.seconds
        )
        return min(candidates, default=(0.0, "", None))[2]


def _max_steps(worker: DecodeView) -> int:
    """Of a prompt. What tokens cost on a worker is learned from one that is longer."""
    is_untried = worker.step_times.largest == 0 and not worker.own_prompts
    return MAX_FIRST_STEPS if is_untried else MAX_STEPS


def token_budget(times: StepTimes, token_s: float, least_s: float) -> int:
    """Prompt tokens that a step may have, by how long steps take, a token of a prefill worker's as
    estimated, and the least that one was seen to take (0: not known)."""
    if not times.is_measured:
        return MIN_BUDGET
    if num_free := num_free_tokens(times, token_s):
        return min(num_free, MAX_GROWTH * max(MIN_BUDGET, times.largest))
    num_fitting = _num_fitting(times, token_s)
    # On a worker like the prefill workers the step takes no more than it may, whatever tokens cost.
    at_first = min(MAX_FIRST_BUDGET, max(MIN_BUDGET, _num_fitting(times, least_s)))
    num_tokens = times.tokens_within(MAX_STRETCH * times.base_s, at_first)
    if num_fitting:
        # Those that were seen may have cost nothing, hidden behind what a step reads anyway. Of
        # more than fit into that time this is no promise.
        num_tokens = min(num_tokens, num_fitting)
    return max(MIN_BUDGET, num_tokens)


def num_free_tokens(times: StepTimes, token_s: float) -> int:
    """Prompt tokens that cost a step next to nothing; 0 if any do, as far as is known."""
    num_tokens = _num_fitting(times, token_s)
    stretched_s = times.seconds(num_tokens)
    is_free = num_tokens >= MIN_BUDGET and stretched_s <= MAX_FREE_STRETCH * times.bare_s
    return num_tokens if is_free and times.largest > 0 else 0


def _num_fitting(times: StepTimes, token_s: float) -> int:
    """Tokens whose arithmetic, at a prefill worker's pace, fits well into the time of a step."""
    return int(FREE_SHARE * times.bare_s / token_s) if token_s else 0


def first_token_s(worker: DecodeView, num_tokens: int) -> float:
    """In how many seconds a worker would have the first token of one more prompt: behind the step
    under way and the prompts that it has."""
    steps = 1 + num_steps(worker, num_tokens)
    return steps * worker.step_times.seconds(worker.prefill_token_budget)


def num_steps(worker: DecodeView, num_tokens: int) -> int:
    """How many steps a worker takes for one more prompt and those that it has."""
    return ceil((worker.num_prompt_tokens_left + num_tokens) / worker.prefill_token_budget)
