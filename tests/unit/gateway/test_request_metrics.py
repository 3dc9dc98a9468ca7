"""What is counted of requests."""

from __future__ import annotations

from gateway.generation import Generation
from gateway.request_metrics import RequestMetrics, TokenTimes
from gateway.tokens import Ended, TokenRequest
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason


def test_a_prompt_of_which_nothing_is_generated_counts_when_it_ends() -> None:
    metrics = RequestMetrics()
    params = SamplingParams(max_tokens=0, seed=0, prompt_logprobs=0)
    generation = Generation(TokenRequest("r", tuple(range(64)), params), 1)
    generation.end_attempt(3.0)
    ended = Ended(FinishReason.LENGTH, generation.served_by())
    metrics.ended(generation, TokenTimes(), ended, 3.0)
    assert (metrics.num_prompt_tokens, metrics.num_generated_tokens) == (64, 0)
    assert (metrics.first_token_s.total, metrics.whole_s.total) == (3.0, 3.0)


def test_cached_tokens_count_though_the_decode_worker_was_heard_first() -> None:
    """It may bring a first token before the prefill worker has said how much it had."""
    metrics, times = RequestMetrics(), TokenTimes()
    request = TokenRequest("r", tuple(range(64)), SamplingParams(max_tokens=4, seed=0))
    generation = Generation(request, 1)
    generation.answer.token_ids.append(7)
    metrics.token(generation, times, 1.0)
    assert (metrics.num_prompt_tokens, metrics.num_cached_tokens) == (64, 0)
    generation.num_cached_tokens = 48
    for _ in range(2):
        metrics.token(generation, times, 2.0)
    generation.end_attempt(3.0)
    metrics.ended(generation, times, Ended(FinishReason.STOP, generation.served_by()), 3.0)
    assert metrics.num_cached_tokens == 48
