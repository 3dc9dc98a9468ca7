"""Folds a call's responses into a `Completion`."""

from __future__ import annotations

from collections import defaultdict

from tandem.client.completion import (
    CompletedChoice,
    Completion,
    Delta,
    FinishReason,
    LikelyToken,
    PromptToken,
    ScoredToken,
    ServedBy,
    ToolCall,
    ToolCallDelta,
)
from tandem.core.errors import Unavailable
from tandem.v1 import inference_pb2, sampling_pb2

_FINISH_REASONS: dict[int, FinishReason] = {
    sampling_pb2.FINISH_REASON_STOP: "stop",
    sampling_pb2.FINISH_REASON_LENGTH: "length",
}
_SERVING_MODES: dict[int, str] = {
    inference_pb2.SERVING_MODE_UNSPECIFIED: "none",
    inference_pb2.SERVING_MODE_DISAGGREGATED: "disaggregated",
    inference_pb2.SERVING_MODE_LOCAL: "local",
}


class CompletionBuilder:
    """Takes the responses one by one."""

    def __init__(self) -> None:
        self._started = inference_pb2.GenerationStarted()
        self._choices: defaultdict[int, _Choice] = defaultdict(_Choice)

    def add(self, response: inference_pb2.GenerateResponse) -> Delta | None:
        """Take the next response; what is new for the reader of a stream in it, if anything."""
        match response.WhichOneof("event"):
            case "started":
                self._started = response.started
            case "delta":
                delta = _read_delta(response.delta)
                self._choices[delta.choice_index].add(delta)
                return delta
            case "finished":
                self._choices[response.finished.choice_index].finished = response.finished
        return None

    def build(self) -> Completion:
        """The whole. Raises `Unavailable` if the responses ended too early."""
        # A gateway of an earlier version does not say how many there will be.
        num_choices = self._started.num_choices or 1
        choices = tuple(self._choices[index].build() for index in range(num_choices))
        return Completion(
            request_id=self._started.request_id,
            model=self._started.model,
            num_prompt_tokens=self._started.num_prompt_tokens,
            num_tokens=sum(len(choice.token_ids) for choice in choices),
            choices=choices,
        )


class _Choice:
    """One choice so far."""

    def __init__(self) -> None:
        self.finished: inference_pb2.GenerationFinished | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[ScoredToken] = []
        self._calls: list[ToolCallDelta] = []
        self._prompt_logprobs: list[PromptToken] = []

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._token_ids.extend(delta.token_ids)
        self._logprobs.extend(delta.logprobs)
        self._calls.extend(delta.tool_calls)
        self._prompt_logprobs.extend(delta.prompt_logprobs)

    def build(self) -> CompletedChoice:
        if self.finished is None:
            raise Unavailable("the generation ended without a result")
        return CompletedChoice(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish_reason=_finish_reason(self.finished),
            served_by=_read_served_by(self.finished.served_by),
            logprobs=tuple(self._logprobs),
            tool_calls=tuple(self._build_calls()),
            prompt_logprobs=tuple(self._prompt_logprobs),
        )

    def _build_calls(self) -> list[ToolCall]:
        pieces: dict[int, list[ToolCallDelta]] = {}
        for piece in self._calls:
            pieces.setdefault(piece.index, []).append(piece)
        return [
            ToolCall(first.id, first.name, "".join(piece.arguments for piece in [first, *rest]))
            for first, *rest in pieces.values()
        ]


def _finish_reason(finished: inference_pb2.GenerationFinished) -> FinishReason:
    # A reason that this build does not know is an end all the same.
    reason = _FINISH_REASONS.get(finished.finish_reason, "stop")
    return "tool_calls" if finished.num_tool_calls and reason == "stop" else reason


def _read_delta(message: inference_pb2.TokenDelta) -> Delta:
    return Delta(
        text=message.text,
        token_ids=tuple(message.token_ids),
        choice_index=message.choice_index,
        logprobs=tuple(map(_read_scored, message.scored)),
        tool_calls=tuple(
            ToolCallDelta(call.index, call.id, call.name, call.arguments)
            for call in message.tool_calls
        ),
        prompt_logprobs=tuple(map(_read_prompt_token, message.prompt)),
    )


def _read_scored(message: inference_pb2.ScoredToken) -> ScoredToken:
    top = tuple(map(_read_likely, message.top))
    return ScoredToken(_read_likely(message.token), message.text_offset, top)


def _read_prompt_token(message: inference_pb2.PromptToken) -> PromptToken:
    return PromptToken(
        message.token_id,
        message.text,
        message.text_offset,
        message.logprob if message.HasField("logprob") else None,
        tuple(map(_read_likely, message.top)),
    )


def _read_likely(message: inference_pb2.LikelyToken) -> LikelyToken:
    return LikelyToken(message.token_id, message.text, message.logprob)


def _read_served_by(message: inference_pb2.ServedBy) -> ServedBy:
    return ServedBy(
        prefill_worker=message.prefill_worker,
        decode_worker=message.decode_worker,
        kv_bytes=message.kv_bytes,
        num_cached_tokens=message.num_cached_tokens,
        # A gateway of a later version may know more of them.
        mode=_SERVING_MODES.get(message.mode, "unknown"),
        num_preemptions=message.num_preemptions,
        num_losses=message.num_losses,
        num_bad_transfers=message.num_bad_transfers,
    )
