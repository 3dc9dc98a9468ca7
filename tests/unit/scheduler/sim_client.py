"""Clients of the simulation, who know what they should get."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from sim_worker import END_RULE, MAX_MODEL_LEN, VOCAB_SIZE

from gateway.generation import Generation
from gateway.tokens import Ended, Event, ScoredPrompt, ServedBy, Token, TokenRequest
from tandem.core.errors import TandemError
from tandem.core.plan import ScoreSpec
from tandem.core.sequence import FinishReason
from tandem.engine.fake.candidates import prompt_logprobs
from tandem.engine.fake.content import expected_tokens


@dataclass(eq=False)
class Client:
    """Who made a request, and what it should get."""

    request: TokenRequest
    expected: list[int]
    reason: FinishReason
    generation: Generation | None = None
    prompt: ScoredPrompt | None = None
    tokens: list[int] = field(default_factory=list)
    outcome: Ended | TandemError | None = None
    served_by: ServedBy | None = None
    cancelled: bool = False

    @property
    def end(self) -> int:
        """Where its sequence ends on a worker, which samples a token in any case."""
        return len(self.request.prompt_token_ids) + max(1, len(self.expected))

    def take(self, event: Event) -> None:
        """An event comes. It is checked at once."""
        assert self.outcome is None, f"{event} came after {self.outcome}"
        if isinstance(event, ScoredPrompt):
            assert self.prompt is None and not self.tokens, "its prompt came late, or again"
            assert event == self._expected_prompt
            self.prompt = event
            return
        if isinstance(event, Token):
            assert self.prompt == self._expected_prompt, "its prompt is missing"
            position = len(self.request.prompt_token_ids) + len(self.tokens)
            assert event.position == position, f"position {event.position} came for {position}"
            self.tokens.append(event.token_id)
            assert self.tokens == self.expected[: len(self.tokens)], "a token is wrong"
            return
        self.outcome = event
        if isinstance(event, Ended):
            assert self.prompt == self._expected_prompt, "its prompt is missing"
            assert self.tokens == self.expected, "tokens are missing"
            assert event.finish_reason is self.reason
            by = self.served_by = event.served_by
            is_whole = by.num_cached_tokens == len(self.request.prompt_token_ids)
            assert not is_whole or by.num_resumed_tokens, "the last token is always computed"
            if by.prefill_worker.startswith("decode"):
                assert (by.decode_worker, by.kv_bytes) == (by.prefill_worker, 0)
            elif not by.num_resumed_tokens:
                assert bool(by.decode_worker) is (len(self.expected) > 1), by
        elif event.reason == "CANCELLED":
            assert self.cancelled, "nobody cancelled"
        elif event.reason == "DEADLINE_EXCEEDED":
            assert self.request.deadline_s < inf, "there is no deadline"

    @property
    def _expected_prompt(self) -> ScoredPrompt | None:
        num_top, prompt = self.request.params.prompt_logprobs, self.request.prompt_token_ids
        if num_top is None:
            return None
        score = ScoreSpec(prompt[1:], num_top)
        return ScoredPrompt(prompt, prompt_logprobs((0, VOCAB_SIZE), score))


def expectation(request: TokenRequest) -> tuple[list[int], FinishReason]:
    """A request's tokens and end, worked out by hand."""
    params, prompt = request.params, request.prompt_token_ids
    limit = min(params.max_tokens, MAX_MODEL_LEN - len(prompt))
    tokens = expected_tokens(
        prompt,
        params,
        limit,
        output_token_ids=(0, VOCAB_SIZE),
        choice_index=request.choice_index,
    )
    stops = params.stop_token_ids | (frozenset() if params.ignore_eos else END_RULE.eos_token_ids)
    for index, token_id in enumerate(tokens):
        if token_id in stops:
            return tokens[: index + 1], FinishReason.STOP
    return tokens, FinishReason.LENGTH
