"""What comes back: deltas while it is generated, and the whole once it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tandem.core.errors import Unavailable
from tandem.v1 import inference_pb2, sampling_pb2

FinishReason = Literal["stop", "length"]

_FINISH_REASONS: dict[int, FinishReason] = {
    sampling_pb2.FINISH_REASON_STOP: "stop",
    sampling_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass(frozen=True, slots=True)
class Delta:
    """New tokens and new text. The text of a token may come later than the token."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """How a request was served. `decode_worker` is empty if the first token was the last."""

    prefill_worker: str
    decode_worker: str
    kv_bytes: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation. `num_tokens` is what was generated: the length of `token_ids`."""

    request_id: str
    model: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_tokens: int
    served_by: ServedBy


class CompletionBuilder:
    """Folds a call's responses into a `Completion`."""

    def __init__(self) -> None:
        self._started = inference_pb2.GenerationStarted()
        self._finished: inference_pb2.GenerationFinished | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []

    def add(self, response: inference_pb2.GenerateResponse) -> Delta | None:
        """Take the next response; what is new for the reader of a stream in it, if anything."""
        match response.WhichOneof("event"):
            case "started":
                self._started = response.started
            case "delta":
                delta = Delta(response.delta.text, tuple(response.delta.token_ids))
                self._texts.append(delta.text)
                self._token_ids.extend(delta.token_ids)
                return delta
            case "finished":
                self._finished = response.finished
        return None

    def build(self) -> Completion:
        """The whole. Raises `Unavailable` if the responses ended too early."""
        if self._finished is None:
            raise Unavailable("the generation ended without a result")
        return Completion(
            request_id=self._started.request_id,
            model=self._started.model,
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            # A reason that this build does not know is an end all the same.
            finish_reason=_FINISH_REASONS.get(self._finished.finish_reason, "stop"),
            num_prompt_tokens=self._started.num_prompt_tokens,
            num_tokens=self._finished.num_tokens,
            served_by=_served_by(self._finished.served_by),
        )


def _served_by(message: inference_pb2.ServedBy) -> ServedBy:
    return ServedBy(
        prefill_worker=message.prefill_worker,
        decode_worker=message.decode_worker,
        kv_bytes=message.kv_bytes,
        num_cached_tokens=message.num_cached_tokens,
    )
