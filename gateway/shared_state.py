"""What the scheduler's parts have in common."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.effects import Outbox
from gateway.fair_shares import FairShares
from gateway.fleet import Fleet
from gateway.prefill_queue import PrefillQueue
from gateway.scheduler_clock import SchedulerClock
from gateway.self_check import SelfChecks


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the gateway takes on. Tokens are prompt tokens."""

    max_batch_tokens: int = 2048
    max_batch_seqs: int = 64
    max_queue: int = 4096


@dataclass(frozen=True, slots=True)
class SharedState:
    """What they decide on, and by what they tell."""

    limits: Limits
    fleet: Fleet
    shares: FairShares
    queue: PrefillQueue
    self_checks: SelfChecks
    outbox: Outbox
    clock: SchedulerClock
