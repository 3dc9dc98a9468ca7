"""Choices of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gateway.choice import Delta, Finished, ScoredToken
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.logprobs import chat_logprobs
from gateway.tokens import TokenBytes
from gateway.tools.tool import ToolCall, ToolCallDelta
from tandem.core.sequence import FinishReason

Json = dict[str, object]


class ChatFormat:
    """Messages, and deltas of messages."""

    id_prefix = "chatcmpl-"
    object_name = "chat.completion"
    chunk_object_name = "chat.completion.chunk"

    def __init__(self, token_bytes: TokenBytes, calls_end_with: str = "tool_calls") -> None:
        """`calls_end_with` is the finish reason of what ended by itself and is a call, or calls."""
        self._token_bytes = token_bytes
        self._calls_end_with = calls_end_with

    def whole(self, choice: CollectedChoice) -> bytes:
        calls = choice.calls
        message: Json = {
            "role": "assistant",
            "content": None if calls and not choice.text else choice.text,
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        return b'"message":' + orjson.dumps(message)

    def opening(self) -> bytes | None:
        return b'"delta":{"role":"assistant","content":""}'

    def delta(self, delta: Delta) -> bytes | None:
        if delta.calls:
            return b'"delta":' + orjson.dumps(_delta_with_calls(delta))
        if delta.text:
            return b'"delta":{"content":%s}' % orjson.dumps(delta.text)
        return b'"delta":{}' if delta.scored else None

    def nothing(self) -> bytes:
        return b'"delta":{}'

    def logprobs(self, scored: Sequence[ScoredToken]) -> bytes:
        return chat_logprobs(scored, self._token_bytes) if scored else b"null"

    def finish_reason(self, finished: Finished) -> str:
        if finished.num_calls and finished.finish_reason is FinishReason.STOP:
            return self._calls_end_with
        return finished.finish_reason.name.lower()


def _delta_with_calls(delta: Delta) -> Json:
    calls = [_call_delta(call) for call in delta.calls]
    return {"content": delta.text, "tool_calls": calls} if delta.text else {"tool_calls": calls}


def _call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_delta(call: ToolCallDelta) -> Json:
    if not call.id:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_call(ToolCall(call.id, call.name, call.arguments))}
