"""In which order prompts are prefilled. Policies are pure, and known by name.

A policy ranks a prompt by what it sees of that prompt alone, so a queue can be kept in order: all
wait at the same pace, so age needs no clock, only the time of arrival. Nobody starves under any of
these: each says what may pass a prompt, and that is always only what comes within a certain time
after it.

A policy of one's own is a subclass of `QueuePolicy` that a package names in its entry points, in
the group `tandem.policies`; see `examples/policy`. What it raises of a prompt ends that request, as
an internal error, before the prompt is queued.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from math import inf
from typing import NamedTuple

from tandem.core.errors import ConfigError

PLUGINS = "tandem.policies"
# Ageing: a prompt lets those pass that come within so many times its own work.
PATIENCE = 4.0
# Ageing: what each number of a priority weighs, in seconds of waiting.
PRIORITY_S = 10.0
# When a request is due that has no deadline, in seconds after its arrival.
DEFAULT_DUE_S = 60.0


class WaitingPrompt(NamedTuple):
    """What is known of a prompt that waits: when it arrived, in how many seconds a prefill worker
    would compute what is left of it, its priority (the lower goes first) and its deadline. Times
    are in monotonic seconds."""

    arrived_s: float
    work_s: float
    priority: int = 0
    deadline_s: float = inf

    @property
    def due_s(self) -> float:
        """Its deadline, or one that stands for it."""
        return min(self.deadline_s, self.arrived_s + DEFAULT_DUE_S)


class QueuePolicy(ABC):
    """An order of prompts, and of running sequences."""

    @abstractmethod
    def rank(self, prompt: WaitingPrompt) -> float:
        """The lowest goes first; of equals, who came first. Never NaN, and the same whenever it is
        asked for, as long as the prompt is."""

    def preemption_order(self, prompt: WaitingPrompt) -> tuple[float, float]:
        """The highest of the running sequences gives way first, if one must: the least important,
        and of equals, who came last. Where there are several tenants those give way before that
        came while theirs held its share, and a priority is shown as 0 if it is less: what a client
        says cannot have others' sequences give way for its own."""
        return prompt.priority, prompt.arrived_s


class FirstComeFirstServed(QueuePolicy):
    """In order of arrival."""

    def rank(self, prompt: WaitingPrompt) -> float:
        return prompt.arrived_s


class Priority(QueuePolicy):
    """In order of arrival, but each number of a priority weighs as much as `PRIORITY_S` seconds of
    waiting: only those overtake a prompt that come within so many times the difference."""

    def rank(self, prompt: WaitingPrompt) -> float:
        return prompt.arrived_s + PRIORITY_S * prompt.priority


class ShortestFirst(Priority):
    """What takes least time goes first, but nobody starves: a second of work weighs as much as
    `PATIENCE` seconds of waiting, so only those overtake a prompt that come within `PATIENCE` times
    its own work. Priorities weigh as in `Priority`."""

    def rank(self, prompt: WaitingPrompt) -> float:
        return Priority.rank(self, prompt) + PATIENCE * prompt.work_s


class EarliestDeadlineFirst(QueuePolicy):
    """What is due first goes first. Nothing is due before it comes, so only those overtake a prompt
    that come before it is due."""

    def rank(self, prompt: WaitingPrompt) -> float:
        return prompt.due_s


POLICIES: dict[str, Callable[[], QueuePolicy]] = {
    "edf": EarliestDeadlineFirst,
    "fcfs": FirstComeFirstServed,
    "priority": Priority,
    "shortest-first": ShortestFirst,
}


def queue_policy(name: str) -> QueuePolicy:
    """One of `POLICIES`, or an installed package's. Raises `ConfigError`: for a name that is not
    known, with those that are."""
    if name in POLICIES:
        return POLICIES[name]()
    plugins = entry_points(group=PLUGINS)
    if name not in plugins.names:
        known = ", ".join(sorted({*POLICIES, *plugins.names}))
        raise ConfigError(f"unknown policy {name!r}: there are {known}", param="policy")
    return _load(plugins[name])


def _load(plugin: EntryPoint) -> QueuePolicy:
    try:
        policy = plugin.load()()
    except Exception as error:
        # It is the operator's own code, and only they are told.
        what = f"policy {plugin.name!r} ({plugin.value}) cannot be loaded"
        raise ConfigError(f"{what}: {type(error).__name__}: {error}", param="policy") from error
    if not isinstance(policy, QueuePolicy):
        raise ConfigError(
            f"policy {plugin.name!r} ({plugin.value}) is no gateway.policies.QueuePolicy",
            param="policy",
        )
    return policy
