"""Whose turn it is, of the tenants that wait, and who is over its share.

Both phases are shared by weight, with a Virtual Token Counter (Sheng et al., OSDI 2024): each
tenant's counter adds up what it was served, divided by its weight, and the lowest goes next
(`turns.py`). A prompt is charged chunk by chunk, as it goes into batches, and each generated token
when it comes, at what it costs, in prompt tokens. So prompts that have started and such that wait
take turns, too, and what a client says of its prompts' importance orders its tenant's own alone.

While two tenants both wait, what they are served, each divided by its weight, differs by at most
2 (P + R) / w: P is the largest prompt, R what the running sequences of one tenant may yet cost, and
w the smaller weight. (Who is taken has the lowest counter, so only that prompt, and what of its
sequences runs already, can take it past another's.)

Turns alone would not do for decode, whose costs come late: many short prompts with long answers
could take all places before they are charged for. So a tenant that holds its share of the decode
workers, in places or in blocks, and wants more, lets those go first that hold less of theirs and
want some. It binds only among those who wait: alone, one may have everything. But what it takes
beyond its share of all tenants' gives way first, if blocks run out; and what has to be computed
again because others ran out of them costs its tenant nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from gateway.bill import Bill
from gateway.generation import Generation, Phase
from gateway.stages import AttemptEnd
from gateway.tenants import DEFAULT_TENANT, Tenants
from gateway.turns import Turns

if TYPE_CHECKING:
    from gateway.decode_view import DecodeView
    from gateway.fleet import Fleet
    from gateway.ranked_queue import Rank

# What a generated token costs, in prompt tokens: while nothing is measured, as in the paper; and
# at the least and the most, whatever is measured.
FIRST_TOKEN_COST = 2.0
MIN_TOKEN_COST = 1.0
MAX_TOKEN_COST = 100.0


class FairShares:
    """The tenants' counters, and what they hold of a fleet's decode workers."""

    def __init__(self, tenants: Tenants, fleet: Fleet) -> None:
        self.has_several = len(tenants) > 1
        self._turns = Turns(tenants)
        self._fleet = fleet
        self._last_served = DEFAULT_TENANT

    def counter(self, tenant: str) -> float:
        """What it was served, in prompt tokens by weight."""
        return self._turns.counter(tenant)

    def share(self, tenant: str, among: Collection[str]) -> float:
        """Of the workers, if `among` are those who want them; it is one of them."""
        return self._turns.share(tenant, among)

    def first(self, heads: Mapping[str, Rank], decoding: Collection[str]) -> str:
        """Whose turn it is, of tenants with the ranks of what they would have served next: of
        equals, whose has come first. Their policy's ranks say nothing of each other. Who is
        `decoding` wants a place on a decode worker for it."""

        def place(tenant: str) -> tuple[float, int]:
            return self.counter(tenant), heads[tenant][1]

        soonest = min(heads, key=place)
        holds_its_share = self._holding(decoding)
        if soonest not in decoding or not holds_its_share(soonest):
            return soonest
        if all(map(holds_its_share, decoding)):
            return soonest
        others = (each for each in heads if each not in decoding or not holds_its_share(each))
        return min(others, key=place)

    def turn(self, tenants: Iterable[str]) -> str:
        """Whose turn it is, of tenants who have room already; of equals, who is named first."""
        return self._turns.first(tenants)

    def num_tokens_due(self, tenant: str, before: str) -> int:
        """How many prompt tokens a tenant may be served until it is another's turn."""
        difference = self.counter(before) - self.counter(tenant)
        return max(0, int(difference * self._turns.weights[tenant]))

    def came(self, tenant: str, waiting: Collection[str]) -> None:
        """A tenant comes to wait, beside those that do. It begins where the lowest of them is, or
        where whoever was served last is by now: what others decode raises counters, too."""
        lowest = min(map(self.counter, waiting), default=self.counter(self._last_served))
        self._turns.lift(tenant, lowest)

    def take(self, tenant: str, decoding: Collection[str]) -> None:
        """A tenant takes its turn, while these waited to decode. A turn that one of them could not
        take for what it holds already is not saved up."""
        holds_its_share = self._holding(decoding)
        for each in decoding:
            is_behind = self.counter(each) < self.counter(tenant)
            if is_behind and holds_its_share(each):
                self._turns.lift(each, self.counter(tenant))

    def charge(self, generation: Generation, end: int) -> None:
        """A context is computed up to its token `end`: what is not cached is charged for, once."""
        num_tokens = generation.bill.charge(generation.expected_cached_tokens, end)
        if num_tokens:
            self._last_served = generation.request.tenant
            self._turns.add(self._last_served, num_tokens)

    def give_back(self, generation: Generation) -> None:
        """Nothing was computed of what this attempt was charged for. Idempotent."""
        self._turns.add(generation.request.tenant, -generation.bill.give_back())

    def begins_again(self, generation: Generation, why: AttemptEnd) -> None:
        """A generation leaves the workers that it is still on, and its context will be computed
        anew. What others have caused costs nothing: it was preempted, and not for what its tenant
        holds beyond its share."""
        if why is AttemptEnd.PREEMPTED and not self.is_over(generation.request.tenant):
            num_tokens = generation.length
            generation.bill = Bill(num_tokens, num_settled=num_tokens)
        elif generation.phase is not Phase.RESERVING:
            generation.bill = Bill()

    def is_over(self, tenant: str) -> bool:
        """Whether a tenant holds its share of the decode workers, however few others want some now:
        who comes later would find them held."""
        return self.has_several and (
            self._fleet.decode_share(tenant) >= self._turns.share_of_all(tenant)
        )

    def stepped(self, worker: DecodeView, sequence_ids: Collection[int]) -> None:
        """A worker has generated a token of each of these sequences."""
        if not self.has_several:
            return
        cost, known = self._token_cost(worker, len(sequence_ids)), worker.generations
        num_tokens = Counter(known[each].request.tenant for each in sequence_ids if each in known)
        for tenant, num in num_tokens.items():
            self._turns.add(tenant, num * cost)

    def _token_cost(self, worker: DecodeView, num_sequences: int) -> float:
        """A sequence's part of a decode step, in the time that a prompt token takes."""
        prompt_token_s, step_s = self._fleet.token_s(), worker.step_times.base_s
        if not (prompt_token_s and step_s and num_sequences):
            return FIRST_TOKEN_COST
        cost = step_s / num_sequences / prompt_token_s
        return min(max(cost, MIN_TOKEN_COST), MAX_TOKEN_COST)

    def _holding(self, among: Collection[str]) -> Callable[[str], bool]:
        """What says whether one of these, who all want to decode, holds its share of that. What it
        takes is worked out once for all of them: there may be a thousand, and each is asked of with
        whatever happens."""
        held, shares = self._fleet.decode_shares(), self._turns.shares(among)
        return lambda tenant: held(tenant) >= shares(tenant)
