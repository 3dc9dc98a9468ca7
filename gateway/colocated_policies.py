"""How a worker that does both divides its steps between prompts and running sequences.

Policies are pure, and known by name. They are the textbook's three, and differ in who waits:
*prefill-first* (Orca and vLLM's first scheduler; Yu et al., OSDI 2022) lets the running sequences
wait for every new prompt, *decode-first* (the static batch of FasterTransformer) lets new prompts
wait for all running sequences, *chunked* (Sarathi-Serve; Agrawal et al., OSDI 2024) lets neither
wait for long.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Protocol

from gateway.generation import Phase
from gateway.worker_view import DecodeView
from tandem.core.errors import ConfigError
from tandem.core.plan import StepRule

# Prompts that wait on a worker behind the one under way, in steps' worth of tokens: enough that its
# steps are always full, and no more, so that the queue's order is decided as late as can be.
MAX_STEPS_WAITING = 2


class ColocatedPolicy(Protocol):
    """`rule` is how a worker fills its steps."""

    @property
    def rule(self) -> StepRule: ...

    def admits(self, worker: DecodeView) -> bool:
        """Whether a worker is to be sent one more prompt, if it has room."""
        ...


class PrefillFirst:
    """New prompts are computed at once, whole, in steps of their own."""

    def __init__(self, max_batch_tokens: int, prefill_token_budget: int) -> None:
        self.rule = StepRule(max_batch_tokens, mixed=False)

    def admits(self, worker: DecodeView) -> bool:
        return _wants_prompts(worker, self.rule)


class DecodeFirst:
    """A batch runs until all of its sequences have ended; only then comes the next. It is open
    until its first token."""

    def __init__(self, max_batch_tokens: int, prefill_token_budget: int) -> None:
        self.rule = StepRule(max_batch_tokens, mixed=False)

    def admits(self, worker: DecodeView) -> bool:
        return all(each.phase is not Phase.DECODING for each in worker.generations.values())


class Chunked:
    """Each step computes the running sequences' next tokens and a few prompt tokens beside them."""

    def __init__(self, max_batch_tokens: int, prefill_token_budget: int) -> None:
        self.rule = StepRule(prefill_token_budget, mixed=True)

    def admits(self, worker: DecodeView) -> bool:
        return _wants_prompts(worker, self.rule)


COLOCATED_POLICIES: dict[str, Callable[[int, int], ColocatedPolicy]] = {
    "prefill-first": PrefillFirst,
    "decode-first": DecodeFirst,
    "chunked": Chunked,
}


def colocated_policy(
    name: str, max_batch_tokens: int, prefill_token_budget: int
) -> ColocatedPolicy:
    """Raises `ConfigError` that lists the known names."""
    if name not in COLOCATED_POLICIES:
        raise ConfigError(
            f"unknown batching {name!r}: there are {', '.join(sorted(COLOCATED_POLICIES))}",
            param="batching",
        )
    return COLOCATED_POLICIES[name](max_batch_tokens, prefill_token_budget)


def _wants_prompts(worker: DecodeView, rule: StepRule) -> bool:
    """Whether fewer prompt tokens that are not cached wait behind the prompt under way than the
    next steps take."""
    # Prompts are computed in the order in which they came: those not through yet are the newest,
    # and what runs, which may be hundreds, is not looked at.
    newest_first = takewhile(
        lambda each: each.phase is not Phase.DECODING, reversed(worker.generations.values())
    )
    waiting = [each.num_context_tokens - each.expected_cached_tokens for each in newest_first]
    return sum(waiting[:-1]) < MAX_STEPS_WAITING * rule.prefill_token_budget
