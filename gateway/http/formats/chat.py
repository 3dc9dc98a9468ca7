"""Choices of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

import orjson

from gateway.choice import Delta, Finished, ScoredToken
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.logprobs import NULL, Pieces, chat_logprobs, chat_pieces
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

    def deltas(self, delta: Delta) -> Sequence[bytes]:
        text = (b'"delta":{"content":%s}' % orjson.dumps(delta.text),) if delta.text else ()
        if delta.calls:
            return (*text, *map(_call_delta, _pieces(delta.calls)))
        return text or ((self.nothing(),) if delta.scored else ())

    def nothing(self) -> bytes:
        return b'"delta":{}'

    def scored(self, tokens: Sequence[ScoredToken]) -> Pieces:
        return chat_pieces(tokens, self._token_bytes)

    def logprobs(self, pieces: Sequence[Pieces]) -> Iterable[bytes]:
        return chat_logprobs(pieces) if pieces else NULL

    def finish_reason(self, finished: Finished) -> str:
        if finished.num_calls and finished.finish_reason is FinishReason.STOP:
            return self._calls_end_with
        return finished.finish_reason.name.lower()


def _pieces(calls: Iterable[ToolCallDelta]) -> Iterator[ToolCallDelta]:
    """What comes together of each call as one piece, but its head before that and by itself, with
    no arguments. Clients look at a chunk's first piece only, or keep a call's first piece as it is
    and add each one's arguments, the first one's too."""
    for index, pieces in groupby(calls, key=attrgetter("index")):
        first, *more = pieces
        if first.id:
            yield replace(first, arguments="")
        if arguments := "".join(each.arguments for each in (first, *more)):
            yield ToolCallDelta(index, arguments)


def _call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _call_delta(call: ToolCallDelta) -> bytes:
    if call.id:
        fields = _call(ToolCall(call.id, call.name, call.arguments))
    else:
        fields = {"function": {"arguments": call.arguments}}
    return b'"delta":{"tool_calls":[%s]}' % orjson.dumps({"index": call.index, **fields})
