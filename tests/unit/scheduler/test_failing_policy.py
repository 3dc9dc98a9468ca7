"""A policy that fails costs the request that it fails of, and nobody else."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from queued_prompts import generation
from scheduler_driver import SchedulerDriver
from structlog.testing import capture_logs

from gateway.effects import Send
from gateway.fair_shares import FairShares
from gateway.fleet import Fleet
from gateway.generation import Generation
from gateway.policies import FirstComeFirstServed, QueuePolicy, WaitingPrompt
from gateway.prefill_queue import PrefillQueue
from gateway.scheduler import Scheduler
from gateway.shared_prompts import SharedPrompts
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT, ONE_TENANT
from tandem.core.commands import PrefillBatch, Reserve
from tandem.core.errors import DeadlineExceeded, Unavailable
from tandem.core.worker import WorkerRole

NOW, SOON, LATER = 100.0, 110.0, 120.0


class Moody(FirstComeFirstServed):
    """Ranks what it likes, and that by arrival."""

    def __init__(self, *, fails: bool = False, rank: Any = None, order: Any = None) -> None:
        self.fails = fails
        self._rank = rank
        self._order = order

    def rank(self, prompt: WaitingPrompt) -> float:
        if self.fails:
            raise ZeroDivisionError
        return super().rank(prompt) if self._rank is None else self._rank

    def preemption_order(self, prompt: WaitingPrompt) -> tuple[float, float]:
        if self.fails:
            raise KeyError("nobody")
        return super().preemption_order(prompt) if self._order is None else self._order


class Driver(SchedulerDriver):
    """A scheduler with a worker of each role, whose batches have 64 tokens."""

    now = NOW

    def __init__(self, policy: QueuePolicy) -> None:
        super().__init__(Scheduler(policy, Limits(max_batch_tokens=64)))
        self._sent: list[Any] = []
        self.join("p", WorkerRole.PREFILL)
        self.join("d", WorkerRole.DECODE)

    def submit(self, name: str, length: int = 8, deadline_s: float = inf) -> Generation:
        return self.submit_prompt(name, (5,) * length, deadline_s=deadline_s)

    def reserve(self) -> dict[str, tuple[float, ...]]:
        """What is reserved now: the preemption ranks of the policy."""
        return {each.key.request_id: each.preemption_rank[1:-1] for each in self._take(Reserve)}

    def chunks(self) -> list[tuple[int, int, int]]:
        """What is sent to be computed now: whose tokens, from which to which."""
        return [
            (each.sequence_id, each.start, each.start + len(each.token_ids))
            for batch in self._take(PrefillBatch)
            for each in batch.chunks
        ]

    def _take(self, kind: type) -> list[Any]:
        """The commands of a kind that nobody has looked at."""
        self._sent += [each.command for each in self.effects() if isinstance(each, Send)]
        taken = [each for each in self._sent if isinstance(each, kind)]
        self._sent = [each for each in self._sent if not isinstance(each, kind)]
        return taken

    @property
    def num_in_flight(self) -> int:
        return self.scheduler.num_in_flight[DEFAULT_TENANT]


def test_what_a_policy_fails_of_leaves_nothing_behind() -> None:
    policy = Moody(fails=True)
    driver = Driver(policy)
    with pytest.raises(ZeroDivisionError):
        driver.submit("failed", deadline_s=SOON)
    assert driver.num_in_flight == driver.scheduler.num_queued == 0
    assert driver.scheduler.next_deadline_s == inf
    policy.fails = False
    driver.submit("good", deadline_s=LATER)
    driver.scheduler.expire(SOON + 1)
    assert driver.num_in_flight == 1
    driver.scheduler.expire(LATER + 1)
    assert driver.num_in_flight == 0
    (end,) = driver.scheduler.take_effects()
    assert isinstance(end.event, DeadlineExceeded)


@pytest.mark.parametrize(
    "said", [{"rank": nan}, {"rank": "first"}, {"order": (nan, 0.0)}, {"order": 7.0}]
)
def test_what_is_no_number_is_no_rank(said: dict[str, Any]) -> None:
    driver = Driver(Moody(**said))
    with pytest.raises((ValueError, TypeError)):
        driver.submit("r")
    assert driver.num_in_flight == 0


def test_a_policy_that_fails_later_holds_up_nothing_that_was_let_in() -> None:
    """Not what has started, nor what waits, nor what comes back."""
    policy = Moody()
    driver = Driver(policy)
    long, short = driver.submit("long", length=100), driver.submit("short")
    assert driver.reserve() == {"long": (0, NOW)}
    policy.fails = True
    with capture_logs() as logs:
        driver.grant(long)
        assert driver.chunks() == [(long.sequence_id, 0, 64)]
        assert driver.reserve() == {"short": (0, NOW)}
        driver.grant(short)
    (told,) = logs
    assert told["log_level"] == "error"
    assert driver.chunks() == [(long.sequence_id, 64, 100), (short.sequence_id, 0, 8)]
    driver.scheduler.worker_lost("p", Unavailable("it was lost"))
    driver.join("p", WorkerRole.PREFILL)
    assert driver.reserve().keys() == {"long"}
    driver.scheduler.cancel(short)
    driver.scheduler.cancel(long)
    assert driver.num_in_flight == 0


def test_what_is_queued_stays_where_it_is_whatever_the_policy_says_later() -> None:
    policy = Moody(rank=7.0)
    fleet = Fleet()
    queue = PrefillQueue(policy, FairShares(ONE_TENANT, fleet), SharedPrompts(fleet))
    waiting = [generation(number, 0.0, 10) for number in range(3)]
    for each in waiting:
        queue.push(each)
        policy.fails = not policy.fails
    assert [each[0] for each in map(queue.rank, waiting)] == [7.0, -inf, 7.0]
    for each in waiting:
        queue.remove(each)
    assert len(queue) == queue.num_tokens_left == 0
