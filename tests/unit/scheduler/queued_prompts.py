"""Prompts, and one worker that computes them in a queue's order."""

from __future__ import annotations

from math import inf
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gateway.fair_shares import FairShares
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.policies import queue_policy
from gateway.prefill_queue import PrefillQueue
from gateway.shared_prompts import SharedPrompts
from gateway.tenants import ONE_TENANT
from gateway.tokens import TokenRequest
from tandem.core.sampling_params import SamplingParams

# A busy machine says nothing of what is tested.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TOKEN_S = 1e-3
# (seconds since the last arrival, prompt tokens, priority, seconds until it is due)
ARRIVALS = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.integers(1, 4000),
        st.sampled_from((0, 0, -1, 2)),
        st.just(inf) | st.floats(0.1, 90.0),
    ),
    max_size=40,
)
Arrivals = list[tuple[float, int, int, float]]


def queue_of(policy: str) -> PrefillQueue:
    fleet = Fleet()
    return PrefillQueue(queue_policy(policy), FairShares(ONE_TENANT, fleet), SharedPrompts(fleet))


def generation(
    number: int,
    arrived_s: float,
    num_tokens: int,
    token_s: float = TOKEN_S,
    max_tokens: int = 2,
    **details: Any,
) -> Generation:
    params = SamplingParams(max_tokens=max_tokens, seed=0)
    request = TokenRequest(str(number), (5,) * num_tokens, params, **details)
    return Generation(request, number, arrived_s, token_s)


def arriving(arrivals: Arrivals) -> list[Generation]:
    now = 0.0
    generations = []
    for number, (after_s, num_tokens, priority, due_s) in enumerate(arrivals):
        now += after_s
        due = {"priority": priority, "deadline_s": now + due_s}
        generations.append(generation(number, now, num_tokens, **due))
    return generations


def serve(queue: PrefillQueue, generations: list[Generation]) -> dict[int, float]:
    """One worker computes all, one after the other: when each starts, by its arrival."""
    now = 0.0
    starts: dict[int, float] = {}
    to_come = list(generations)
    while to_come or len(queue):
        while to_come and (to_come[0].arrived_s <= now or not len(queue)):
            now = max(now, to_come[0].arrived_s)
            queue.push(to_come.pop(0))
        head = queue.peek()
        assert head
        queue.take(head)
        starts[head.arrival] = now
        now += head.num_prompt_tokens * TOKEN_S
    return starts


def work_s(generations: list[Generation]) -> float:
    return sum(each.num_prompt_tokens for each in generations) * TOKEN_S
