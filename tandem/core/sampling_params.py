"""How the next token is chosen, and when a sequence ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tandem.core.errors import InvalidRequest

MAX_STOP_TOKEN_IDS = 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What a worker must know to sample a sequence and to end it by itself.

    `seed` is always set: the gateway draws one where the client gave none, so that any token of any
    request can be sampled again, anywhere. `temperature` 0 is greedy. `top_k` 0 keeps all tokens.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False

    def validate(self) -> None:
        """Raise `InvalidRequest`, naming the parameter, if any value is out of its range."""
        _require(self.max_tokens >= 1, "max_tokens", "must be at least 1")
        _require(0 <= self.seed < 2**63, "seed", "must be in [0, 2**63)")
        _require(
            math.isfinite(self.temperature) and 0.0 <= self.temperature <= 2.0,
            "temperature",
            "must be in [0, 2]",
        )
        _require(
            math.isfinite(self.top_p) and 0.0 < self.top_p <= 1.0, "top_p", "must be in (0, 1]"
        )
        _require(0 <= self.top_k < 2**31, "top_k", "must be 0 (all) or positive")
        _require(
            len(self.stop_token_ids) <= MAX_STOP_TOKEN_IDS,
            "stop_token_ids",
            f"must have at most {MAX_STOP_TOKEN_IDS} entries",
        )


def _require(holds: bool, param: str, what: str) -> None:
    if not holds:
        raise InvalidRequest(f"{param} {what}", param=param)
