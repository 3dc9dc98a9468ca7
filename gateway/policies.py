"""In which order prompts are prefilled. Policies are pure, and known by name.

A policy ranks a prompt by what it sees of that prompt alone, so a queue can be kept in order: all
wait at the same pace, so age needs no clock, only the time of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tandem.core.errors import ConfigError

# Ageing: a prompt lets those pass that come within so many times its own work.
PATIENCE = 4.0


class WaitingPrompt(NamedTuple):
    """What is known of a prompt that waits: when it arrived, in monotonic seconds, and in how many
    seconds a prefill worker would compute what is left of it."""

    arrived_s: float
    work_s: float


class QueuePolicy(Protocol):
    """An order of prompts."""

    def rank(self, prompt: WaitingPrompt) -> float:
        """The lowest goes first; of equals, who came first."""
        ...


class FirstComeFirstServed:
    """In order of arrival."""

    def rank(self, prompt: WaitingPrompt) -> float:
        return prompt.arrived_s


class ShortestFirst:
    """What takes least time goes first, but nobody starves: a second of work weighs as much as
    `PATIENCE` seconds of waiting, so only those overtake a prompt that come within `PATIENCE` times
    its own work."""

    def rank(self, prompt: WaitingPrompt) -> float:
        return prompt.arrived_s + PATIENCE * prompt.work_s


POLICIES: dict[str, Callable[[], QueuePolicy]] = {
    "fcfs": FirstComeFirstServed,
    "shortest-first": ShortestFirst,
}


def queue_policy(name: str) -> QueuePolicy:
    """Raises `ConfigError` that lists the known names."""
    if name not in POLICIES:
        raise ConfigError(
            f"unknown policy {name!r}: there are {', '.join(sorted(POLICIES))}", param="policy"
        )
    return POLICIES[name]()
