"""What is asked of a row of logits."""

from __future__ import annotations

from typing import NamedTuple

from tandem.core.noise import position_key
from tandem.core.plan import SampleSpec
from tandem.engine.allowed_tokens import ALL, Allowed
from tandem.engine.torch.adjustments import is_adjusted
from tandem.engine.torch.token_counts import TokenCounts

NO_TOKEN = -1
"""Stands for the token of a row that gives none."""

# Below it, dividing by the temperature could overflow, and the noise could no longer show anyway.
LEAST_TEMPERATURE = 1e-6


class SampleRow(NamedTuple):
    """What a row of logits is asked for: the token at `position`, among those `allowed`. Penalties
    need the sequence's `counts`."""

    spec: SampleSpec
    position: int
    allowed: Allowed = ALL
    counts: TokenCounts | None = None

    @property
    def is_greedy(self) -> bool:
        return self.spec.params.temperature < LEAST_TEMPERATURE

    @property
    def is_of_all(self) -> bool:
        """Whether its token is of all by the logits as they are: their likeliest, or drawn from
        their softmax."""
        is_plain = self.allowed.is_all and not is_adjusted(self.spec.params)
        return is_plain and not self.is_filtered

    @property
    def is_filtered(self) -> bool:
        """Whether it is drawn from some of the likelier tokens alone."""
        params = self.spec.params
        is_filtered = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
        return is_filtered and not self.is_greedy

    @property
    def key(self) -> int:
        """The key of its noise, unsigned 64 bits."""
        return position_key(self.spec.params.seed, self.spec.choice_index, self.position)
