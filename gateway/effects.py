"""What the scheduler wants done."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.generation import Generation
from gateway.tokens import Ended, Token
from tandem.core.commands import DecodeCommand, PrefillCommand
from tandem.core.errors import TandemError


@dataclass(frozen=True, slots=True)
class Send:
    """Tell a worker."""

    worker_id: str
    command: DecodeCommand | PrefillCommand


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell a client. `Ended` and errors are terminal: exactly one for each generation."""

    generation: Generation
    event: Token | Ended | TandemError
