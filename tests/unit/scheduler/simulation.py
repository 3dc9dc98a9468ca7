"""The whole system in one thread, without gRPC and without time.

The real `Dispatcher` and `Scheduler`, the real states of the workers and the fake engines; only
streams and transfers are replaced, by queues and generators that a random choice moves on. A
scenario is a function of its `Random` alone, so a failing seed fails again.

What a scenario checks as it goes: every token of every client against the fake engine's hand-worked
output, one terminal event for each generation, no error that nothing has caused, no sequence in a
step before its arming or after its end (`sim_client.py`, `sim_worker.py`, `sim_checks.py`). What it
checks at the end is in `check_quiet`.
"""

from __future__ import annotations

from random import Random

from sim_checks import check_quiet, check_views, check_waiting
from sim_disturbances import Disturbances, connect
from sim_faults import Faults
from sim_progress import Action, Progress
from sim_system import System

MAX_DRAIN = 20_000


class Scenario:
    """What happens to a system. `trace` is that, for whoever has to understand a failure."""

    def __init__(
        self, random: Random, faults: Faults, policy: str | None, *, is_crowded: bool
    ) -> None:
        self.system = System(random, faults, policy, is_crowded=is_crowded)
        self.trace: list[str] = []
        self._random = random
        self._progress = Progress(self.system)
        self._disturbances = Disturbances(self.system)
        self._slow: dict[str, bool] = {}

    def run(self) -> None:
        """Disturb the system for a while, then leave it alone until it is quiet."""
        for _ in range(self._random.randint(10, 150)):
            disturbs = self._random.random() < self.system.faults.rate
            actions = list(self._disturbances.actions() if disturbs else self._progress.actions())
            if actions:
                self._do(self._choose(actions))
            else:
                self._heartbeat()
            check_views(self.system)
            check_waiting(self.system)
        self._drain()
        check_quiet(self.system)

    def _drain(self) -> None:
        for link in self.system.links:
            if not link.connected:
                self._do(connect(self.system, link))
            self.system.dispatcher.undrain_worker(link.name)
        for _ in range(MAX_DRAIN):
            actions = list(self._progress.actions())
            if not actions:
                self._heartbeat()
                actions = list(self._progress.actions())
            if not actions:
                return
            self._do(self._choose(actions))
        raise AssertionError("it never gets quiet")

    def _choose(self, actions: list[Action]) -> Action:
        """In each scenario some actions are slow, so that a lot can happen before they do."""
        random = self._random
        quick = [each for each in actions if not self._is_slow(each[0])]
        return random.choice(quick if quick and random.random() < 0.95 else actions)

    def _is_slow(self, name: str) -> bool:
        if name not in self._slow:
            self._slow[name] = self._random.random() < 0.2
        return self._slow[name]

    def _do(self, action: Action) -> None:
        name, act = action
        self.trace.append(name)
        act()

    def _heartbeat(self) -> None:
        self.trace.append("heartbeats")
        for link in self.system.links:
            if link.connected:
                link.report()
                while link.up:
                    link.read()


def run_scenario(
    random: Random, faults: Faults, policy: str | None = None, *, is_crowded: bool = False
) -> System:
    """Run one scenario: the system at its end. A failure tells what led to it."""
    scenario = Scenario(random, faults, policy, is_crowded=is_crowded)
    try:
        scenario.run()
    except Exception as error:
        error.add_note("\n".join(scenario.trace[-80:]))
        raise
    return scenario.system
