"""Whose turn it is, of the tenants that wait.

Both phases are shared by weight, with the Virtual Token Counter (Sheng et al., OSDI 2024): each
tenant's counter adds up what it was served, divided by its weight, and the lowest goes next. A
prompt is charged when it is taken from the queue, and each generated token when it comes, at what
it costs, in prompt tokens. Whoever comes to wait after having had nothing to wait for is lifted to
the lowest of those who do, so that nobody can save turns up.

While two tenants both wait, what they are served, each divided by its weight, differs by at most
2 (P + R) / w: P is the largest prompt, R what the running sequences of one tenant may yet cost, and
w the smaller weight. (Who is taken has the lowest counter, so only that prompt, and what of its
sequences runs already, can take it past another's.)

Turns alone would not do for decode, whose costs come late: many short prompts with long answers
could take all places before they are charged for. So a tenant that holds its share of the decode
workers, in places or in blocks, lets all go first that hold less of theirs. It binds only among
those who wait: alone, one may have everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from gateway.tenants import DEFAULT_TENANT, Tenants

if TYPE_CHECKING:
    from gateway.decode_view import DecodeView
    from gateway.fleet import Fleet
    from gateway.generation import Generation
    from gateway.prefill_queue import Rank

# What a generated token costs, in prompt tokens: while nothing is measured, as in the paper; and
# at the least and the most, whatever is measured.
FIRST_TOKEN_COST = 2.0
MIN_TOKEN_COST = 1.0
MAX_TOKEN_COST = 100.0


class FairShares:
    """The tenants' counters, and what they hold of a fleet's decode workers."""

    def __init__(self, tenants: Tenants, fleet: Fleet) -> None:
        self._weights = {name: tenant.weight for name, tenant in tenants.items()}
        self._counters = dict.fromkeys(tenants, 0.0)
        self._fleet = fleet
        self._last_left = DEFAULT_TENANT

    def counter(self, tenant: str) -> float:
        """What it was served, in prompt tokens by weight."""
        return self._counters[tenant]

    def share(self, tenant: str, among: Collection[str]) -> float:
        """Of the workers, if `among` are those who want them; it is one of them."""
        return self._weights[tenant] / sum(self._weights[each] for each in among)

    def first(self, heads: Mapping[str, Rank]) -> str:
        """Whose turn it is, of tenants with the ranks of what they would have served next."""
        by_turn = sorted(heads, key=lambda tenant: (self._counters[tenant], heads[tenant]))
        hungry = (tenant for tenant in by_turn if not self._holds_its_share(tenant, heads))
        return next(hungry, by_turn[0])

    def came(self, tenant: str, waiting: Collection[str]) -> None:
        """A tenant comes to wait, beside those that do."""
        lowest = min(
            (self._counters[each] for each in waiting), default=self._counters[self._last_left]
        )
        self._counters[tenant] = max(self._counters[tenant], lowest)

    def left(self, tenant: str) -> None:
        """A tenant has nothing to wait for any more."""
        self._last_left = tenant

    def take(self, generation: Generation, waiting: Collection[str]) -> None:
        """A prompt is served, while these tenants waited."""
        tenant = generation.request.tenant
        # A turn that one could not take for what it holds already is not saved up either.
        for each in waiting:
            is_behind = self._counters[each] < self._counters[tenant]
            if is_behind and self._holds_its_share(each, waiting):
                self._counters[each] = self._counters[tenant]
        generation.prompt_charge = generation.num_tokens_left / self._weights[tenant]
        self._counters[tenant] += generation.prompt_charge

    def give_back(self, generation: Generation) -> None:
        """A prompt that was taken has to be served anew. Idempotent."""
        self._counters[generation.request.tenant] -= generation.prompt_charge
        generation.prompt_charge = 0.0

    def stepped(self, worker: DecodeView, sequence_ids: Collection[int]) -> None:
        """A worker has generated a token of each of these sequences."""
        if len(self._counters) == 1:
            return
        cost, known = self._token_cost(worker, len(sequence_ids)), worker.generations
        num_tokens = Counter(known[each].request.tenant for each in sequence_ids if each in known)
        for tenant, num in num_tokens.items():
            self._counters[tenant] += num * cost / self._weights[tenant]

    def _token_cost(self, worker: DecodeView, num_sequences: int) -> float:
        """A sequence's part of a decode step, in the time that a prompt token takes."""
        prompt_token_s, step_s = self._fleet.token_s(), worker.step_times.base_s
        if not (prompt_token_s and step_s and num_sequences):
            return FIRST_TOKEN_COST
        cost = step_s / num_sequences / prompt_token_s
        return min(max(cost, MIN_TOKEN_COST), MAX_TOKEN_COST)

    def _holds_its_share(self, tenant: str, waiting: Collection[str]) -> bool:
        return self._fleet.decode_share(tenant) >= self.share(tenant, waiting)
