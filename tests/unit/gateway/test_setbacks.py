"""What befalls requests is counted when it does, and once."""

from __future__ import annotations

from gateway.generation import Generation
from gateway.request_metrics import RequestMetrics, TokenTimes
from gateway.setbacks import Setbacks
from gateway.stages import AttemptEnd
from gateway.tokens import TokenRequest
from tandem.core.errors import Cancelled
from tandem.core.sampling_params import SamplingParams


def generation(*ends: AttemptEnd) -> Generation:
    made = Generation(TokenRequest("r", (5,) * 8, SamplingParams(max_tokens=5, seed=0)), 1)
    for number, why in enumerate(ends):
        made.restart(number, 0.0, why)
    return made


def test_it_counts_while_a_request_goes_on_and_no_more_when_it_ends() -> None:
    metrics = RequestMetrics()
    first = generation(AttemptEnd.PREEMPTED, AttemptEnd.PREEMPTED, AttemptEnd.WORKER_LOST)
    second = generation(*[AttemptEnd.PREEMPTED] * 2, AttemptEnd.BAD_KV)
    second.park(0.0)
    assert metrics.setbacks([]) == Setbacks()
    assert metrics.setbacks([first, second]) == Setbacks(5, 1, 1)
    metrics.ended(first, TokenTimes(), Cancelled("left"), 1.0)
    assert metrics.setbacks([second]) == Setbacks(5, 1, 1)
    metrics.ended(second, TokenTimes(), Cancelled("left"), 1.0)
    assert metrics.setbacks([]) == Setbacks(5, 1, 1)


def test_what_had_not_begun_to_be_served_loses_nothing() -> None:
    ends = (AttemptEnd.REFUSED, AttemptEnd.UNANSWERED, AttemptEnd.DRAINED)
    assert generation(*ends).setbacks == Setbacks()
