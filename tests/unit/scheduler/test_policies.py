"""The orders in which prompts are prefilled: nobody starves, under any of them."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from queued_prompts import ARRIVALS, TOKEN_S, UNHURRIED, Arrivals, arriving, queue_of, serve, work_s
from scheduler_driver import SchedulerDriver

from gateway import policies
from gateway.colocated_policies import colocated_policy
from gateway.generation import Generation
from gateway.policies import DEFAULT_DUE_S, PATIENCE, POLICIES, PRIORITY_S, queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from tandem.core.commands import Reserve
from tandem.core.errors import ConfigError
from tandem.core.worker import WorkerRole

LEAST_PRIORITY = -1
# The second one waits while many come that would go before it.
LONG_ONES = [(0.0, 1000, 0, inf), (0.0, 400, 0, inf)]


def may_wait_s(policy: str, generation: Generation) -> float:
    """What comes so long after a prompt does not overtake it any more, by its policy's promise."""
    request, arrived_s = generation.request, generation.arrived_s
    by_priority_s = PRIORITY_S * (request.priority - LEAST_PRIORITY)
    return {
        "fcfs": 0.0,
        "priority": by_priority_s,
        "shortest-first": by_priority_s + PATIENCE * work_s([generation]),
        "edf": min(request.deadline_s - arrived_s, DEFAULT_DUE_S),
    }[policy]


@UNHURRIED
@given(ARRIVALS)
def test_first_come_is_first_served(arrivals: Arrivals) -> None:
    starts = serve(queue_of("fcfs"), arriving(arrivals))
    assert list(starts) == sorted(starts)


@UNHURRIED
@given(ARRIVALS, st.sampled_from(sorted(POLICIES)))
@example([*LONG_ONES, *[(0.1, 200, 0, 1.0)] * 60], "shortest-first")
@example([*LONG_ONES, *[(0.1, 200, -1, 1.0)] * 300], "priority")
@example([*LONG_ONES, *[(0.4, 600, 0, 1.0)] * 250], "edf")
def test_nobody_starves(arrivals: Arrivals, policy: str) -> None:
    """A prompt waits for no more than one that runs, and what came within the time that the policy
    promises, however much comes after that."""
    generations = arriving(arrivals)
    starts = serve(queue_of(policy), generations)
    longest_s = max((each.num_prompt_tokens for each in generations), default=0) * TOKEN_S
    for each in generations:
        until_s = each.arrived_s + may_wait_s(policy, each)
        rivals = [it for it in generations if it.arrived_s <= until_s]
        others_s = work_s(rivals) - work_s([each])
        assert starts[each.arrival] - each.arrived_s <= longest_s + others_s + 1e-6


@pytest.mark.parametrize(
    ("policy", "first"),
    [("fcfs", 0), ("priority", 1), ("shortest-first", 2), ("edf", 3)],
)
def test_what_each_policy_looks_at(policy: str, first: int) -> None:
    arrivals = [(0.0, 1000, 0, 50.0), (0.5, 4000, -1, 50.0), (0.1, 10, 0, 50.0), (0.1, 900, 0, 5.0)]
    if policy == "shortest-first":
        arrivals[1] = (0.5, 4000, 0, 50.0)
    queue = queue_of(policy)
    generations = arriving(arrivals)
    for each in generations:
        queue.push(each)
    assert queue.peek() is generations[first]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_least_important_gives_way_first_and_of_those_who_came_last(policy: str) -> None:
    queue = queue_of(policy)
    arrivals = [(0.0, 10, 0, 50.0), (1.0, 10, 2, 50.0), (1.0, 10, 2, 50.0), (1.0, 10, 0, 50.0)]
    generations = arriving(arrivals)
    order = sorted(generations, key=queue.preemption_rank, reverse=True)
    assert [each.arrival for each in order] == [2, 1, 3, 0]


@pytest.mark.parametrize("colocated", [False, True])
def test_who_goes_first_is_reserved_first(colocated: bool) -> None:
    """A decode worker with one place, which is taken: whose it is next."""
    chunked = colocated_policy("chunked", 64, 64) if colocated else None
    scheduler = Scheduler(queue_policy("priority"), Limits(64), colocated=chunked)
    driver = SchedulerDriver(scheduler, max_num_seqs=1)
    if not colocated:
        driver.join("p", WorkerRole.PREFILL)
    driver.join("d", WorkerRole.DECODE)

    def reserved() -> list[str]:
        return [each.key.request_id for each in driver.commands(Reserve)]

    first = driver.submit("first")
    assert reserved() == ["first"]
    driver.submit("usual")
    driver.submit_prompt("urgent", (5,) * 4, priority=-1)
    scheduler.cancel(first)
    assert reserved() == ["urgent"]


# Policies of others


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = {
        "mine": "gateway.policies:EarliestDeadlineFirst",
        "gone": "no_such_module:Policy",
        "wrong": "builtins:dict",
        "broken": "builtins:open",
    }
    points = [EntryPoint(name, value, policies.PLUGINS) for name, value in plugins.items()]
    monkeypatch.setattr(policies, "entry_points", lambda group: EntryPoints(points))


@pytest.mark.usefixtures("installed")
def test_a_policy_of_a_package_is_found_by_name() -> None:
    assert isinstance(queue_policy("mine"), policies.EarliestDeadlineFirst)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonesuch", "broken, edf, fcfs, gone, mine, priority, shortest-first, wrong"),
        ("gone", r"'gone' \(no_such_module:Policy\) cannot be loaded: ModuleNotFoundError"),
        ("broken", "cannot be loaded: TypeError"),
        ("wrong", "is no gateway.policies.QueuePolicy"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        queue_policy(name)
    assert caught.value.param == "policy"
