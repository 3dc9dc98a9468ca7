"""Whose turn it is, of several tenants."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from queued_prompts import UNHURRIED, generation
from sim_worker import worker_info

from gateway.decode_view import DecodeView
from gateway.fair_shares import FIRST_TOKEN_COST, MAX_TOKEN_COST, FairShares
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.policies import queue_policy
from gateway.prefill_queue import PrefillQueue
from gateway.prefill_view import PrefillView
from gateway.shared_prompts import SharedPrompts
from gateway.stages import AttemptEnd
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant, Tenants
from tandem.core.worker import WorkerRole

MAX_PROMPT = 50
MAX_ANSWER = 20
MAX_RUNNING = 3
TENANTS: Tenants = {DEFAULT_TENANT: Tenant(), "a": Tenant(), "b": Tenant(weight=3.0)}


@dataclass
class Shop:
    """A queue, one worker that computes its prompts one by one, and one that generates. `served` is
    what each tenant was, divided by its weight."""

    tenants: Tenants
    fleet: Fleet = field(default_factory=Fleet)
    served: Counter[str] = field(default_factory=Counter)
    running: dict[Generation, int] = field(default_factory=dict)
    num_queued: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.shares = FairShares(self.tenants, self.fleet)
        self.queue = PrefillQueue(queue_policy("fcfs"), self.shares, SharedPrompts(Fleet()))
        self.decode = DecodeView(worker_info("d", WorkerRole.DECODE, 1, 1000, 8), "d:1")
        self._numbers = count()

    def push(self, tenant: str, num_tokens: int, **params: int) -> Generation:
        number = next(self._numbers)
        each = generation(number, float(number), num_tokens, tenant=tenant, **params)
        self.queue.push(each)
        self.num_queued[tenant] += 1
        return each

    def take(self, answers: dict[str, int] | int = 0) -> Generation:
        """Serve the prompt whose turn it is, once there is room for it; so many tokens will follow,
        by its tenant."""
        while self._num_running((head := self._head()).request.tenant) == MAX_RUNNING:
            self.steps(1)
        tenant = head.request.tenant
        self.compute(head)
        self.num_queued[tenant] -= 1
        self._serve(head, head.num_prompt_tokens)
        self.decode.generations[head.sequence_id] = head
        self.running[head] = answers if isinstance(answers, int) else answers[tenant]
        return head

    def compute(self, generation: Generation) -> None:
        """Take one from the queue, and compute it whole."""
        self.queue.take(generation)
        self.queue.charge(generation, generation.num_context_tokens)

    def hold(self, tenant: str, num_places: int) -> list[Generation]:
        """So many of a tenant's are on the decode worker."""
        held = [self.push(tenant, 1) for _ in range(num_places)]
        for each in held:
            self.compute(each)
            self.decode.enter(each, 2)
        return held

    def _head(self) -> Generation:
        head = self.queue.peek()
        assert head
        return head

    def steps(self, num_steps: int) -> None:
        """So many tokens for each that runs."""
        for _ in range(num_steps):
            self._step()

    def _step(self) -> None:
        self.running = {each: left for each, left in self.running.items() if left}
        self.shares.stepped(self.decode, [each.sequence_id for each in self.running])
        for each in self.running:
            self.running[each] -= 1
            self._serve(each, FIRST_TOKEN_COST)

    def _serve(self, each: Generation, cost: float) -> None:
        tenant = each.request.tenant
        self.served[tenant] += cost / self.tenants[tenant].weight  # type: ignore[assignment]

    def _num_running(self, tenant: str) -> int:
        going_on = (each for each, left in self.running.items() if left)
        return sum(each.request.tenant == tenant for each in going_on)


class Asked(dict[str, float]):
    """Counts how often it is asked for a value."""

    num_asked = 0

    def __getitem__(self, name: str) -> float:
        self.num_asked += 1
        return super().__getitem__(name)


PROMPTS = st.integers(1, MAX_PROMPT)
NAMES = st.sampled_from(sorted(TENANTS))
# (who comes, the prompt, its answer, steps before the next)
DAY = st.lists(st.tuples(NAMES, PROMPTS, st.integers(0, MAX_ANSWER), st.integers(0, 3)), min_size=1)
Day = list[tuple[str, int, int, int]]


@UNHURRIED
@given(DAY, DAY, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
@example([("a", 50, 20, 3)], [("a", 50, 20, 1), ("b", 50, 0, 1)], 1.0, 1.0)
@example([("a", 50, 20, 3), ("b", 1, 0, 3)], [("default", 50, 9, 9)], 1.0, 3.0)
def test_who_waits_is_served_by_weight(before: Day, after: Day, a: float, b: float) -> None:
    """Whatever happened before, and whoever else comes and goes: `a` and `b`, who always wait from
    some time on, are served alike, within the bound that the module states."""
    shop = Shop({DEFAULT_TENANT: Tenant(), "a": Tenant(weight=a), "b": Tenant(weight=b)})
    for tenant, num_tokens, num_answer, num_steps in before * 20:
        shop.push(tenant, num_tokens)
        shop.take(num_answer)
        shop.steps(num_steps)
    answers = dict.fromkeys(shop.tenants, 0) | {tenant: answer for tenant, _, answer, _ in after}
    bound = 2 * (MAX_PROMPT + MAX_RUNNING * MAX_ANSWER * FIRST_TOKEN_COST) / min(a, b)
    start: Counter[str] | None = None
    for other, num_tokens, _, num_steps in after * 20:
        for tenant in ("a", "b"):
            while shop.num_queued[tenant] < 2:
                shop.push(tenant, num_tokens)
        if other == DEFAULT_TENANT:
            shop.push(other, num_tokens)
        start = start or shop.served.copy()
        shop.take(answers)
        shop.steps(num_steps)
        gained = {tenant: shop.served[tenant] - start[tenant] for tenant in ("a", "b")}
        assert abs(gained["a"] - gained["b"]) <= bound + 1e-6


def test_a_weight_of_three_is_three_prompts_to_one() -> None:
    shop = Shop(TENANTS)
    for _ in range(40):
        shop.push("a", 10)
        shop.push("b", 10)
    taken = Counter(shop.take().request.tenant for _ in range(40))
    assert taken == {"a": 10, "b": 30}


def test_turns_cannot_be_saved_up() -> None:
    shop = Shop(TENANTS)
    for _ in range(50):
        shop.push(DEFAULT_TENANT, 10)
        shop.take()
    for _ in range(10):
        shop.push(DEFAULT_TENANT, 10)
        shop.push("a", 10)
    taken = [shop.take().request.tenant for _ in range(10)]
    assert abs(taken.count("a") - taken.count(DEFAULT_TENANT)) <= 1


def test_what_others_decode_is_no_turn_that_was_saved_up() -> None:
    shop = Shop({DEFAULT_TENANT: Tenant(), "a": Tenant(), "b": Tenant()})
    for _ in range(3):
        shop.push("a", 50)
        shop.take(10_000)
    shop.push("a", 50)
    shop.steps(1000)
    shop.push("b", 50)
    assert shop.shares.counter("b") == shop.shares.counter("a")


def test_who_comes_begins_where_the_lowest_of_those_who_wait_is() -> None:
    shop = Shop({DEFAULT_TENANT: Tenant(), "a": Tenant(), "b": Tenant()})
    for tenant, num_tokens in (("a", 30), (DEFAULT_TENANT, 50)):
        shop.push(tenant, num_tokens)
        shop.push(tenant, 1)
    for _ in range(2):
        shop.take()
    shop.push("b", 1)
    assert shop.shares.counter("b") == shop.shares.counter("a") == 30


def test_with_nobody_else_there_a_tenant_has_it_all() -> None:
    shop = Shop(TENANTS)
    shop.fleet.decode["d"] = shop.decode
    for _ in range(8):
        each = shop.push("a", 4)
        assert shop.take() is each
        shop.decode.enter(each, 2)


def test_who_holds_its_share_of_decode_lets_others_go_first() -> None:
    """`a` has the lower counter, and two of the eight places, its share."""
    shop = Shop(TENANTS)
    shop.fleet.decode["d"] = shop.decode
    held = shop.hold("a", 2)
    mine, other = shop.push("a", 1), shop.push("b", 1000)
    assert shop.queue.peek() is other
    shop.compute(other)
    other = shop.push("b", 1000)
    assert shop.queue.peek() is other
    shop.decode.leave(held[0])
    assert shop.queue.peek() is mine


def test_who_wants_no_place_there_takes_turns_with_who_holds_its_share() -> None:
    """`a` holds its share and waits for more; `b` has prompts without answers, as many as it
    likes."""
    shop = Shop(TENANTS)
    shop.fleet.decode["d"] = shop.decode
    shop.hold("a", 8)
    for _ in range(20):
        shop.push("a", 100)
        shop.push("b", 100, max_tokens=1)
    served = Counter(shop.take().request.tenant for _ in range(8))
    # By weight, 1 and 3.
    assert served == {"a": 2, "b": 6}


def test_blocks_count_as_places_do() -> None:
    shop = Shop(TENANTS)
    shop.fleet.decode["d"] = shop.decode
    large = shop.push("a", 1)
    shop.compute(large)
    shop.decode.enter(large, 500)
    assert shop.fleet.decode_share("a") == pytest.approx(0.5)
    shop.push("a", 1)
    other = shop.push("b", 1000)
    assert shop.queue.peek() is other


def test_places_on_a_worker_that_drains_are_in_nobodys_share() -> None:
    """`a` holds two of the eight that can be had, its share."""
    shop = Shop(TENANTS)
    shop.fleet.decode["d"] = shop.decode
    drained = DecodeView(worker_info("d2", WorkerRole.DECODE, 1, 1000, 8), "d2:1")
    shop.fleet.decode["d2"] = drained
    shop.hold("a", 2)
    mine, other = shop.push("a", 1), shop.push("b", 1000)
    assert shop.queue.peek() is mine
    drained.cordoned = True
    assert shop.queue.peek() is other


def test_what_is_asked_to_find_whose_turn_it_is_grows_with_the_tenants() -> None:
    """And not with their pairs, though all of very many wait for more than the share that they
    hold."""
    names = [f"t{number}" for number in range(100)]
    shop = Shop({**ONE_TENANT, **{name: Tenant() for name in names}})
    shop.decode = DecodeView(worker_info("d", WorkerRole.DECODE, 1, 1000, len(names)), "d:1")
    shop.fleet.decode["d"] = shop.decode
    for name in names:
        shop.hold(name, 1)
    for name in names:
        shop.push(name, 1)
    weights = shop.shares._turns.weights = Asked(shop.shares._turns.weights)
    head = shop.queue.peek()
    assert head
    shop.queue.take(head)
    assert weights.num_asked <= 8 * len(names)


def test_what_one_could_not_take_for_what_it_holds_is_not_saved_up() -> None:
    shop = Shop(TENANTS)
    shop.fleet.decode["d"] = shop.decode
    shop.hold("a", 3)
    shop.push("a", 1)
    for _ in range(10):
        shop.push("b", 300)
        shop.take()
    shop.push("b", 300)
    assert shop.shares.counter("b") - shop.shares.counter("a") <= 300 / 3.0


def test_what_comes_back_uncomputed_is_not_charged_twice() -> None:
    shop = Shop(TENANTS)
    shop.push("b", 10)
    each = shop.push("a", 30)
    for _ in range(5):
        shop.compute(each)
        assert shop.shares.counter("a") == 30
        shop.shares.give_back(each)
        each.restart(each.sequence_id + 100, 0.0, AttemptEnd.REFUSED)
        shop.queue.push(each)
        assert shop.shares.counter("a") == 0


def test_a_generated_token_costs_its_part_of_a_step_in_prompt_tokens() -> None:
    shop = Shop(TENANTS)
    prefill = PrefillView(worker_info("p", WorkerRole.PREFILL, 1, 1000, 8), "p:1")
    shop.fleet.prefill["p"] = prefill
    for num_tokens in (100, 1000) * 20:
        prefill.step_times.observe(num_tokens, num_tokens * 1e-4)
    for _ in range(20):
        shop.decode.step_times.observe(0, 8e-3)
    each = shop.push("a", 1)
    shop.take()
    before = shop.shares.counter("a")
    shop.shares.stepped(shop.decode, [each.sequence_id, 77, 78, 79])
    assert shop.shares.counter("a") - before == pytest.approx(8e-3 / 4 / 1e-4, rel=0.05)
    for _ in range(100):
        shop.decode.step_times.observe(0, 10.0)
    before = shop.shares.counter("a")
    shop.shares.stepped(shop.decode, [each.sequence_id])
    assert shop.shares.counter("a") - before == pytest.approx(MAX_TOKEN_COST)
