"""What the answers of the two endpoints look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import orjson

from gateway.answer import Answer, Finished
from tandem.core.sequence import FinishReason

Json = dict[str, object]


class AnswerFormat(Protocol):
    """What distinguishes one endpoint's answers from the other's: the form of a choice."""

    id_prefix: str
    object_name: str
    chunk_object_name: str

    def whole(self, text: str, reason: FinishReason) -> Json:
        """A choice that is not streamed."""
        ...

    def opening(self) -> Json | None:
        """A streamed choice before its text."""
        ...

    def delta(self, text: str) -> Json:
        """New text of a streamed choice."""
        ...

    def closing(self, reason: FinishReason) -> Json:
        """The end of a streamed choice."""
        ...


class ChatFormat:
    """/v1/chat/completions."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"

    def whole(self, text: str, reason: FinishReason) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return _choice(reason, message=message)

    def opening(self) -> Json | None:
        return _choice(None, delta={"role": "assistant", "content": ""})

    def delta(self, text: str) -> Json:
        return _choice(None, delta={"content": text})

    def closing(self, reason: FinishReason) -> Json:
        return _choice(reason, delta={})


class CompletionFormat:
    """/v1/completions."""

    id_prefix = "cmpl-"
    object_name = "text_completion"
    chunk_object_name = "text_completion"

    def whole(self, text: str, reason: FinishReason) -> Json:
        return _choice(reason, text=text)

    def opening(self) -> Json | None:
        return None

    def delta(self, text: str) -> Json:
        return _choice(None, text=text)

    def closing(self, reason: FinishReason) -> Json:
        return _choice(reason, text="")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What stands around the choices of one answer, the same in each of its chunks."""

    id: str
    object_name: str
    created: int
    model: str

    def json(self, choices: list[Json], **more: object) -> bytes:
        """The answer, or a chunk of it."""
        return orjson.dumps(
            {
                "id": self.id,
                "object": self.object_name,
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **more,
            }
        )


def usage(answer: Answer, finished: Finished) -> Json:
    """What the request is billed for."""
    num_prompt_tokens = answer.num_prompt_tokens
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": finished.num_tokens,
        "total_tokens": num_prompt_tokens + finished.num_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.served_by.num_cached_tokens},
    }


def served_by(finished: Finished) -> Json:
    """How the request was served: our extension, `tandem`."""
    by = finished.served_by
    return {
        "prefill_worker": by.prefill_worker,
        "decode_worker": by.decode_worker,
        "kv_bytes": by.kv_bytes,
    }


def _choice(reason: FinishReason | None, **content: object) -> Json:
    return {
        "index": 0,
        **content,
        "logprobs": None,
        "finish_reason": reason.name.lower() if reason else None,
    }
