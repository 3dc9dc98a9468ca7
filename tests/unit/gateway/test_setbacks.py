"""What befalls requests is counted when it does, and once."""

from __future__ import annotations

from gateway.generation import Generation
from gateway.request_metrics import RequestMetrics, Setbacks, TokenTimes
from gateway.tokens import TokenRequest
from tandem.core.errors import Cancelled
from tandem.core.sampling_params import SamplingParams


def generation(num_preemptions: int, num_losses: int) -> Generation:
    params = SamplingParams(max_tokens=5, seed=0)
    made = Generation(TokenRequest("r", (5,) * 8, params), 1)
    made.num_preemptions, made.num_losses = num_preemptions, num_losses
    return made


def test_it_counts_while_a_request_goes_on_and_no_more_when_it_ends() -> None:
    metrics = RequestMetrics()
    first, second = generation(2, 1), generation(3, 0)
    assert metrics.setbacks([]) == Setbacks(0, 0, 0)
    assert metrics.setbacks([first, second]) == Setbacks(5, 1, 0)
    metrics.ended(first, TokenTimes(), Cancelled("left"), 1.0)
    assert metrics.setbacks([second]) == Setbacks(5, 1, 0)
    metrics.ended(second, TokenTimes(), Cancelled("left"), 1.0)
    assert metrics.setbacks([]) == Setbacks(5, 1, 0)
