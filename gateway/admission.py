"""Who is let in: a request is refused before any work is done for it, or it is served.

Refused is what no worker is there for, what the queue has no place for, what is more than its
tenant's quota, and what could not have its first token before its deadline any more. Who is refused
is told when to come again: not a constant, but when by the measured pace there will be room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import inf

from gateway.deadlines import Deadlines
from gateway.fleet import Fleet
from gateway.forecast import Forecast
from gateway.generation import Generation, Phase
from gateway.prefill_queue import PrefillQueue
from gateway.tenants import Tenants
from tandem.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RateLimitExceeded,
    ResourceExhausted,
    Unavailable,
)
from tandem.core.worker import WorkerRole

# When to come again while no pace is known, or no worker is there: names are looked up so often.
RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class InFlight:
    """What a tenant has queued or running, oldest first, and how many requests that are being
    read."""

    generations: dict[Generation, None] = field(default_factory=dict)
    num_tokens: int = 0
    num_being_read: int = 0


class Admission:
    """Counts what is in flight, and decides who is let in. Times are in monotonic seconds."""

    def __init__(
        self,
        fleet: Fleet,
        queue: PrefillQueue,
        max_queue: int,
        tenants: Tenants,
        needed_roles: Callable[[], Iterable[WorkerRole]],
    ) -> None:
        """The queue has `max_queue` places. `needed_roles` are those of which there must be a
        worker each."""
        self.deadlines = Deadlines()
        self._fleet = fleet
        self._queue = queue
        self._max_queue = max_queue
        self._tenants = tenants
        self._total_weight = sum(tenant.weight for tenant in tenants.values())
        self._needed_roles = needed_roles
        self._forecast = Forecast(fleet, queue)
        self._in_flight = {name: InFlight() for name in tenants}

    @property
    def num_in_flight(self) -> dict[str, int]:
        """Generations that were let in and have not ended, by tenant."""
        return {name: len(each.generations) for name, each in self._in_flight.items()}

    @property
    def generations(self) -> Iterator[Generation]:
        """These, each tenant's oldest first."""
        for each in self._in_flight.values():
            yield from each.generations

    def check_room(self, tenant: str, num_choices: int, deadline_s: float, now: float) -> None:
        """Raise `Unavailable`, `ResourceExhausted`, `RateLimitExceeded`, `InvalidRequest` or
        `DeadlineExceeded` if so many generations of a tenant are not let in, whatever their
        lengths."""
        if missing := self._fleet.missing(self._needed_roles()):
            is_there = any(each.info.role is missing for each in self._fleet.workers)
            raise Unavailable(
                f"there is no {missing.name.lower()} worker"
                + (" that does not drain" if is_there else ""),
                retry_after_s=RETRY_AFTER_S,
            )
        if num_choices > self._max_queue:
            raise InvalidRequest(
                f"the queue has {self._max_queue} places, and this wants {num_choices}", param="n"
            )
        if self._is_full(tenant, num_choices):
            retry_after_s = self._forecast.next_place_s() or RETRY_AFTER_S
            raise ResourceExhausted("the queue is full", retry_after_s=retry_after_s)
        self._check_requests(tenant, num_choices)
        if deadline_s <= now:
            raise DeadlineExceeded("the request's time was over before it was queued")

    def reading(self, tenant: str, num_requests: int) -> AbstractContextManager[None]:
        """Let so many of a tenant's requests be read. For the time of the block they are among
        those that it has in flight. Raises as `check_room` for its quota, before the block."""
        self._check_requests(tenant, num_requests)
        return self._counted_as_read(self._in_flight[tenant], num_requests)

    def enter(self, generation: Generation, now: float) -> None:
        """Let a generation in, or raise as `check_room`; also for its length, and `Unavailable` if
        its first token would come too late."""
        request = generation.request
        tenant, deadline_s = request.tenant, request.deadline_s
        # All choices of a request, or none.
        self.check_room(tenant, 1 + request.num_behind, deadline_s, now)
        in_flight, limit = self._in_flight[tenant], self._tenants[tenant].max_tokens_in_flight
        num_tokens = generation.max_length
        num_wanted = num_tokens + request.num_tokens_behind
        self._check_quota(tenant, in_flight.num_tokens, num_wanted, limit, "tokens", "max_tokens")
        # What is computed for the choice before it serves it as well, and that was in time.
        is_computed_once = request.repeats_prompt and self._fleet.caches_prefixes
        if deadline_s < inf and not is_computed_once:
            self._check_deadline(generation, deadline_s - now)
        in_flight.generations[generation] = None
        in_flight.num_tokens += num_tokens
        self.deadlines.add(generation)

    def leave(self, generation: Generation, now: float) -> None:
        """One that was let in has ended: with a place in the queue, or with what it had since."""
        if generation.phase is not Phase.QUEUED:
            self._forecast.ended(now)
        in_flight = self._in_flight[generation.request.tenant]
        del in_flight.generations[generation]
        in_flight.num_tokens -= generation.max_length
        self.deadlines.discard(generation)

    def is_late(self, generation: Generation, now: float) -> bool:
        """Whether no worker could have the first token of a queued generation in time any more."""
        deadline_s = generation.request.deadline_s
        return deadline_s < inf and now + self._forecast.work_s(generation) > deadline_s

    def _is_full(self, tenant: str, num_wanted: int) -> bool:
        """Whether the queue has no places for so many more of a tenant: not in all, and not of
        those that its weight gives it whatever others have queued."""
        share = self._tenants[tenant].weight / self._total_weight
        num_others_wanted = num_wanted - 1
        num_in_all = self._queue.num_in_all + num_others_wanted
        num_own = self._queue.num_queued(tenant) + num_others_wanted
        return num_in_all >= self._max_queue and num_own >= share * self._max_queue

    @contextmanager
    def _counted_as_read(self, in_flight: InFlight, num_requests: int) -> Iterator[None]:
        in_flight.num_being_read += num_requests
        try:
            yield
        finally:
            in_flight.num_being_read -= num_requests

    def _check_requests(self, tenant: str, num_wanted: int) -> None:
        in_flight, limit = self._in_flight[tenant], self._tenants[tenant].max_requests
        used = len(in_flight.generations) + in_flight.num_being_read
        self._check_quota(tenant, used, num_wanted, limit, "requests", "n")

    def _check_quota(
        self, tenant: str, used: int, num_wanted: int, limit: int | None, what: str, param: str
    ) -> None:
        if limit is None or used + num_wanted <= limit:
            return
        may = f"tenant {tenant} may have {limit} {what} in flight"
        if num_wanted > limit:
            raise InvalidRequest(f"{may}, and this one asks for {num_wanted}", param=param)
        raise RateLimitExceeded(
            f"{may}, has {used}, and asks for {num_wanted} more",
            retry_after_s=self._oldest_ends_s(tenant) or RETRY_AFTER_S,
        )

    def _oldest_ends_s(self, tenant: str) -> float:
        """Until a tenant's oldest generation ends; 0 if all that it has is being read."""
        oldest = next(iter(self._in_flight[tenant].generations), None)
        return self._forecast.end_s(oldest) if oldest else 0.0

    def _check_deadline(self, generation: Generation, left_s: float) -> None:
        work_s = self._forecast.work_s(generation)
        if work_s > left_s:
            raise DeadlineExceeded(f"the prompt alone takes {work_s:.3g} s")
        first_token_s = self._forecast.first_token_s(generation)
        if first_token_s > left_s:
            raise Unavailable(
                f"the first token would come in {first_token_s:.3g} s, after the request's time",
                retry_after_s=first_token_s - left_s,
            )
