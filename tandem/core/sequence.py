"""A sequence being generated: its tokens so far, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from enum import IntEnum

from tandem.core.sampling_params import SamplingParams


class FinishReason(IntEnum):
    """Why a sequence ended. The numbers are the wire's."""

    STOP = 1
    LENGTH = 2


@dataclass(frozen=True, slots=True)
class SequenceKey:
    """Which generation a sequence is: the client's request, the choice, and how often the gateway
    had started it before. With a position it names a token for good."""

    request_id: str
    choice_index: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class EndRule:
    """What a worker must know of its model to end a sequence by itself."""

    eos_token_ids: frozenset[int]
    max_model_len: int

    def finish_reason(
        self, params: SamplingParams, token_id: int, num_generated: int, length: int
    ) -> FinishReason | None:
        """Whether a sequence ends with `token_id`, as its `num_generated`-th generated token that
        makes it `length` tokens long."""
        if token_id in params.stop_token_ids:
            return FinishReason.STOP
        if token_id in self.eos_token_ids and not params.ignore_eos:
            return FinishReason.STOP
        if self.ends_by_length(params, num_generated, length):
            return FinishReason.LENGTH
        return None

    def ends_by_length(self, params: SamplingParams, num_generated: int, length: int) -> bool:
        """Whether a sequence ends with such a number of tokens, whatever they are."""
        return num_generated >= params.max_tokens or length >= self.max_model_len


@dataclass(slots=True)
class Sequence:
    """A prompt and what was generated from it."""

    sequence_id: int
    key: SequenceKey
    prompt_token_ids: Tokens[int]
    params: SamplingParams
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens of the prompt and generated: the position of the next token."""
        return len(self.prompt_token_ids) + len(self.token_ids)

    def __getitem__(self, positions: slice) -> Tokens[int]:
        """The token ids of consecutive positions, of prompt and answer alike."""
        start, end, _ = positions.indices(self.length)
        num_prompt_tokens = len(self.prompt_token_ids)
        if end <= num_prompt_tokens:
            return self.prompt_token_ids[start:end]
        own = self.token_ids[max(0, start - num_prompt_tokens) : end - num_prompt_tokens]
        return [*self.prompt_token_ids[start:], *own]

    def append(self, token_id: int, rule: EndRule) -> FinishReason | None:
        """Add a generated token; the reason if the sequence ends with it."""
        self.token_ids.append(token_id)
        self.finish_reason = rule.finish_reason(
            self.params, token_id, len(self.token_ids), self.length
        )
        return self.finish_reason
