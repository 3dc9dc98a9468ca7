"""What comes back: deltas while it is generated, and the whole once it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token and its log-probability, of the model's own distribution. `text` is what it says by
    itself: bytes, since a character may be spread over several tokens."""

    token_id: int
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A generated token, and the likeliest ones at its place, the likeliest first. `text_offset` is
    where its text begins in the choice's, in characters."""

    token: LikelyToken
    text_offset: int
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of the prompt, and likewise; the first one has no `logprob`: nothing is before it."""

    token_id: int
    text: bytes
    text_offset: int
    logprob: float | None
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made. `arguments` is JSON. Give it back in the assistant's message, and
    its `id` with the result."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the `index`-th call of a choice: the first has the id and the name, each has more
    of the arguments' JSON."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens, text and pieces of calls of one choice. The text of a token may come later than
    the token. `logprobs` are those of the tokens, if they were asked for. With `echo` as well,
    `prompt_logprobs` are those of prompt tokens: all come before the first token."""

    text: str
    token_ids: tuple[int, ...]
    choice_index: int = 0
    logprobs: tuple[ScoredToken, ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    prompt_logprobs: tuple[PromptToken, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedBy:
    """How a choice was served. `decode_worker` is empty if the first token was the last. `mode` is
    "local" if one worker did all of it, "none" if there was nothing to compute, "unknown" if only a
    later version knows, else "disaggregated". It was preempted `num_preemptions` times, went on
    elsewhere `num_losses` times because a worker was lost, and was computed again
    `num_bad_transfers` times because its KV came damaged."""

    prefill_worker: str
    decode_worker: str
    kv_bytes: int
    num_cached_tokens: int
    mode: str = "disaggregated"
    num_preemptions: int = 0
    num_losses: int = 0
    num_bad_transfers: int = 0


@dataclass(frozen=True, slots=True)
class CompletedChoice:
    """One answer. `prompt_logprobs` are there if it was asked for `echo` and `logprobs`."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    served_by: ServedBy
    logprobs: tuple[ScoredToken, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_logprobs: tuple[PromptToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished request. Most have one choice: its fields are the completion's own as well.

    Choice `i` of prompt `p` is `choices[p * n + i]`. `num_tokens` is what was generated for all
    choices together, `num_prompt_tokens` counts each prompt once.
    """

    request_id: str
    model: str
    num_prompt_tokens: int
    num_tokens: int
    choices: tuple[CompletedChoice, ...]

    @property
    def text(self) -> str:
        """The first choice's."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first choice's."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """The first choice's."""
        return self.choices[0].finish_reason

    @property
    def served_by(self) -> ServedBy:
        """The first choice's."""
        return self.choices[0].served_by

    @property
    def logprobs(self) -> tuple[ScoredToken, ...]:
        """The first choice's."""
        return self.choices[0].logprobs

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first choice's."""
        return self.choices[0].tool_calls

    @property
    def prompt_logprobs(self) -> tuple[PromptToken, ...]:
        """The first choice's."""
        return self.choices[0].prompt_logprobs
