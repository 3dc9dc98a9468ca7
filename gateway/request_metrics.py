"""What became of the requests, counted as it happens. Read at a scrape (`metrics_page.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan, nan

from gateway.effects import Checked
from gateway.generation import Generation
from gateway.setbacks import Setbacks
from gateway.tokens import Ended, ServedBy, ServingMode
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    EngineFailed,
    Fenced,
    InvalidRequest,
    Mismatch,
    ResourceExhausted,
    TandemError,
    Unavailable,
)
from tandem.core.histogram import Histogram
from tandem.core.sequence import FinishReason

# Seconds. First tokens and whole answers take from a few steps to minutes; between two tokens there
# is a step, which on a GPU is a few milliseconds.
LATENCY_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
TOKEN_TIME_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
# Why requests end and how they were served, of which that of nobody was computed; and as what they
# fail once they were let in.
ABORT = "abort"
FINISHED = (
    *(
        (reason, mode.name.lower())
        for reason in (*(each.name.lower() for each in FinishReason), ABORT)
        for mode in (ServingMode.DISAGGREGATED, ServingMode.LOCAL)
    ),
    (ABORT, ServingMode.NONE.name.lower()),
)
FAILURES = tuple(
    each.reason
    for each in (
        *(DataLoss, DeadlineExceeded, EngineFailed, Fenced, InvalidRequest, Mismatch),
        *(ResourceExhausted, TandemError, Unavailable),
    )
)
LENGTH_BOUNDS = tuple(float(2**power) for power in range(18))


@dataclass(slots=True)
class TokenTimes:
    """When a generation's first and newest token went out, in monotonic seconds; NaN before. So
    many of its prompt's cached tokens are counted."""

    first_s: float = nan
    newest_s: float = nan
    num_cached_tokens: int = 0


class RequestMetrics:
    """Totals over all choices of all requests, and histograms of their times, in seconds."""

    def __init__(self) -> None:
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_generated_tokens = 0
        self.num_kv_bytes = 0
        self._setbacks = Setbacks()
        self.finished = Counter[tuple[str, str]]()
        """By why and how it was served: `("stop", "disaggregated")`."""
        self.failed = Counter[str]()
        """By the error's reason."""
        self.refused = Counter[str]()
        self.self_checks = Counter[str]()
        """By what became of them."""
        self.num_checked_tokens = 0
        self.first_token_s = Histogram(LATENCY_BOUNDS)
        self.between_tokens_s = Histogram(TOKEN_TIME_BOUNDS)
        self.per_token_s = Histogram(TOKEN_TIME_BOUNDS)
        """Of each answer the mean after its first token."""
        self.whole_s = Histogram(LATENCY_BOUNDS)
        self.queued_s = Histogram(LATENCY_BOUNDS)
        self.prefill_s = Histogram(LATENCY_BOUNDS)
        self.decode_s = Histogram(LATENCY_BOUNDS)
        self.prompt_lengths = Histogram(LENGTH_BOUNDS)
        self.answer_lengths = Histogram(LENGTH_BOUNDS)

    def token(self, generation: Generation, times: TokenTimes, now: float) -> None:
        """A token goes out to its client."""
        self.num_generated_tokens += 1
        if isnan(times.newest_s):
            times.first_s = now
            self._first_token(generation, times, now)
        else:
            self.between_tokens_s.observe(now - times.newest_s)
        times.newest_s = now

    def _first_token(self, generation: Generation, times: TokenTimes, now: float) -> None:
        self.first_token_s.observe(now - generation.arrived_s)
        placed_s = generation.attempts.placed_s
        self.queued_s.observe(placed_s - generation.arrived_s)
        self.prefill_s.observe(now - placed_s)
        self.num_prompt_tokens += generation.num_prompt_tokens
        self._count_cached(generation, times)

    def _count_cached(self, generation: Generation, times: TokenTimes) -> None:
        """What is known of them by now: a first token may come from the decode worker before the
        prefill worker has said how much it had."""
        self.num_cached_tokens += generation.num_cached_tokens - times.num_cached_tokens
        times.num_cached_tokens = generation.num_cached_tokens

    def setbacks(self, under_way: Iterable[Generation]) -> Setbacks:
        """Of all requests: of those that have ended, and of those that have not."""
        return Setbacks.total([self._setbacks, *(each.setbacks for each in under_way)])

    def checked(self, checked: Checked) -> None:
        """An answer was generated once more, or was to be."""
        self.self_checks[checked.result] += 1
        self.num_checked_tokens += checked.num_same

    def ended(
        self, generation: Generation, times: TokenTimes, event: Ended | TandemError, now: float
    ) -> None:
        """A generation's one end."""
        num_tokens = len(generation.token_ids)
        if num_tokens:
            self._count_cached(generation, times)
        self._setbacks = Setbacks.total((self._setbacks, generation.setbacks))
        if isinstance(event, Ended):
            if not num_tokens:
                # What was wanted of its prompt goes out with it.
                self._first_token(generation, times, now)
            self._finished(event.finish_reason.name.lower(), event.served_by)
            self.whole_s.observe(now - generation.arrived_s)
            self.prompt_lengths.observe(generation.num_prompt_tokens)
            self.answer_lengths.observe(num_tokens)
        elif isinstance(event, Cancelled):
            self._finished(ABORT, generation.served_by())
        else:
            self.failed[event.reason] += 1
        if num_tokens > 1:
            decode_s = times.newest_s - times.first_s
            self.decode_s.observe(decode_s)
            self.per_token_s.observe(decode_s / (num_tokens - 1))

    def _finished(self, reason: str, served_by: ServedBy) -> None:
        self.finished[reason, served_by.mode_name] += 1
        self.num_kv_bytes += served_by.kv_bytes
