"""How a worker that does both divides its steps between prompts and running sequences.

Policies are pure, and known by name. They are the textbook's three, and differ in who waits:
*prefill-first* (Orca and vLLM's first scheduler; Yu et al., OSDI 2022) lets the running sequences
wait for every new prompt, *decode-first* (the static batch of FasterTransformer) lets new prompts
wait for all running sequences, *chunked* (Sarathi-Serve; Agrawal et al., OSDI 2024) lets neither
wait for long.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple, Protocol

from gateway.decode_view import DecodeView
from gateway.generation import Phase
from gateway.step_budgets import HURRIED_BUDGET, num_on_target
from tandem.core.errors import ConfigError
from tandem.core.plan import StepRule


class ColocatedBudgets(NamedTuple):
    """Prompt tokens of a step: `max_batch_tokens` of whole prompts, `prefill_token_budget` of a
    chunk. With a `tpot_target_s`, the seconds that a token may take (0: nobody said), the chunk
    begins with that many and is then what leaves the running sequences this."""

    max_batch_tokens: int
    prefill_token_budget: int
    tpot_target_s: float


class ColocatedPolicy(Protocol):
    """How workers fill their steps, and when they get more. If it `closes_batches`, nobody joins
    one that has a first token."""

    closes_batches: bool

    def rule(self, worker: DecodeView) -> StepRule:
        """How a worker is to fill its steps from now on."""
        ...

    def admits(self, worker: DecodeView) -> bool:
        """Whether a worker is to be sent one more prompt, if it has room."""
        ...


class PrefillFirst:
    """New prompts are computed at once, whole, in steps of their own."""

    closes_batches = False

    def __init__(self, budgets: ColocatedBudgets) -> None:
        self._rule = StepRule(budgets.max_batch_tokens, mixed=False)

    def rule(self, worker: DecodeView) -> StepRule:
        return self._rule

    def admits(self, worker: DecodeView) -> bool:
        return worker.wants_prompts


class DecodeFirst:
    """A batch runs until all of its sequences have ended; only then comes the next. It is open
    until its first token."""

    closes_batches = True

    def __init__(self, budgets: ColocatedBudgets) -> None:
        self._rule = StepRule(budgets.max_batch_tokens, mixed=False)

    def rule(self, worker: DecodeView) -> StepRule:
        return self._rule

    def admits(self, worker: DecodeView) -> bool:
        return all(each.phase is not Phase.DECODING for each in worker.generations.values())


class Chunked:
    """Each step computes the running sequences' next tokens and a few prompt tokens beside them: as
    many as was said, or, if it was said how long a token may take, as many as end in that time."""

    closes_batches = False

    def __init__(self, budgets: ColocatedBudgets) -> None:
        self._budgets = budgets
        self._rule = StepRule(budgets.prefill_token_budget, mixed=True)

    def rule(self, worker: DecodeView) -> StepRule:
        target_s, token_s = self._budgets.tpot_target_s, worker.least_token_s
        if not target_s or token_s == inf:
            return self._rule
        num_tokens = max(HURRIED_BUDGET, num_on_target(worker.step_times, token_s, target_s))
        budget = min(self._budgets.max_batch_tokens, num_tokens)
        # What comes while nothing runs waits for the rest of a step before its first token, and no
        # token after it does.
        return StepRule(budget, mixed=True, idle_token_budget=self._budgets.prefill_token_budget)

    def admits(self, worker: DecodeView) -> bool:
        return worker.wants_prompts


COLOCATED_POLICIES: dict[str, Callable[[ColocatedBudgets], ColocatedPolicy]] = {
    "prefill-first": PrefillFirst,
    "decode-first": DecodeFirst,
    "chunked": Chunked,
}


def colocated_policy(
    name: str, max_batch_tokens: int, prefill_token_budget: int, tpot_target_s: float = 0.0
) -> ColocatedPolicy:
    """Raises `ConfigError` that lists the known names."""
    if name not in COLOCATED_POLICIES:
        raise ConfigError(
            f"unknown batching {name!r}: there are {', '.join(sorted(COLOCATED_POLICIES))}",
            param="batching",
        )
    budgets = ColocatedBudgets(max_batch_tokens, prefill_token_budget, tpot_target_s)
    return COLOCATED_POLICIES[name](budgets)
