"""What may go wrong in a scenario."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """How likely a disturbance is instead of progress, or a request has a deadline, and which kinds
    there are."""

    rate: float = 0.0
    cancels: bool = True
    deadlines: bool = True
    breaks: bool = True
    losses: bool = True
    engine_failures: bool = True
    transfer_faults: bool = True
    drains: bool = True
