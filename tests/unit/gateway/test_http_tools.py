"""Tool calls over HTTP."""

from __future__ import annotations

import copy
import json
from unittest.mock import Mock

import pytest
from http_client import CHAT_PATH, TEXT, TEXT_PATH, Json, assert_refused, stream, whole
from scripted_service import Step, ended

from gateway.choice import Delta
from gateway.http.formats.chat import ChatFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.streaming import Chunks, UsageWanted
from gateway.tools.tool import ToolCallDelta
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import GrammarKind
from tandem.core.sequence import FinishReason

USER = {"role": "user", "content": "Hi"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells it.", "parameters": PARAMETERS},
}
CHAT = {"messages": [USER], "tools": [TOOL]}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def calls(service, say):
    """Each answer is some words and two calls."""
    text = f"Let me see.\n{CALL}\n{CALL}"
    service.script = lambda request: [*say(text)[:-1], ended_by_stop()]
    return service


def ended_by_stop() -> Step:
    return ended(FinishReason.STOP)


def prompt_of(service, tokenizer) -> str:
    return tokenizer.decode(service.requests[-1].prompt_token_ids, skip_special_tokens=False)


async def test_calls(client, calls, tokenizer):
    body = await whole(client, CHAT_PATH, CHAT)
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    first, second = choice["message"]["tool_calls"]
    assert first["id"].startswith("call_") and first["id"] != second["id"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert "get_weather" in prompt_of(calls, tokenizer)
    assert calls.requests[0].params.grammar is None


async def test_a_call_without_words_has_no_content(client, service, say):
    service.script = lambda request: [*say(CALL)[:-1], ended_by_stop()]
    body = await whole(client, CHAT_PATH, CHAT)
    assert body["choices"][0]["message"]["content"] is None


async def test_streamed_calls(client, calls):
    *chunks, last = await stream(client, CHAT_PATH, CHAT)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see."
    pieces = [call for delta in deltas for call in delta.get("tool_calls", [])]
    heads = [piece for piece in pieces if "id" in piece]
    assert [(head["index"], head["function"]["name"]) for head in heads] == [
        (0, "get_weather"),
        (1, "get_weather"),
    ]
    for index in (0, 1):
        own = [piece for piece in pieces if piece["index"] == index]
        assert len(own) > 10
        arguments = "".join(piece["function"]["arguments"] for piece in own)
        assert json.loads(arguments) == {"city": "Paris"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert last["usage"]["completion_tokens"] == len(f"Let me see.\n{CALL}\n{CALL}")


def added_to_the_first(deltas: list[Json]) -> list[tuple[str, str]]:
    """Names and arguments, put together as OpenAI's documentation does it."""
    final: dict[int, Json] = {}
    for delta in deltas:
        for piece in delta.get("tool_calls") or []:
            if piece["index"] not in final:
                final[piece["index"]] = copy.deepcopy(piece)
            final[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    functions = [call["function"] for call in final.values()]
    return [(function["name"], function["arguments"]) for function in functions]


def added_to_the_last(deltas: list[Json]) -> list[tuple[str, str]]:
    """By a client that looks at one piece of each chunk, and takes an id for a call's beginning."""
    final: list[tuple[str, str]] = []
    for delta in deltas:
        if not delta.get("tool_calls"):
            continue
        piece = delta["tool_calls"][0]
        if piece.get("id"):
            final.append((piece["function"]["name"], ""))
        name, arguments = final[-1]
        final[-1] = (name, arguments + piece["function"]["arguments"])
    return final


def assert_each_client_reads(deltas: list[Json], expected: list[tuple[str, str]]) -> None:
    assert added_to_the_first(deltas) == added_to_the_last(deltas) == expected
    pieces = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert {len(each) for each in pieces} == {1}


WEATHER = ("get_weather", '{"city": "Paris"}')
TURNED_ROUND = '<tool_call>\n{"arguments": {"city": "Paris"}, "name": "get_weather"}\n</tool_call>'


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("text", [CALL, TURNED_ROUND])
async def test_a_streamed_call_begins_with_a_chunk_of_its_own(
    client, service, say, text, continuous
):
    service.script = lambda request: [*say(f"{text}\n{text}")[:-1], ended_by_stop()]
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    chunks = await stream(client, CHAT_PATH, CHAT | {"stream_options": options, "logprobs": True})
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert_each_client_reads([choice["delta"] for choice in choices], [WEATHER, WEATHER])
    scored = [choice["logprobs"]["content"] for choice in choices if choice["logprobs"]]
    assert sum(map(len, scored)) == chunks[-1]["usage"]["completion_tokens"]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["usage"]]
    assert counts == sorted(counts) and (len(counts) == len(chunks)) == continuous


def test_calls_that_come_together_are_chunks_one_by_one(tokenizer):
    pieces = (
        ToolCallDelta(0, '{"a": '),
        ToolCallDelta(0, "1}"),
        ToolCallDelta(1, "", "call_1", "f"),
        ToolCallDelta(1, "{"),
        ToolCallDelta(1, "}"),
        ToolCallDelta(2, '{"b": 2}', "call_2", "g"),
    )
    answer = Mock(num_choices=1, num_prompt_tokens=1, choices_per_prompt=1)
    form = ChatFormat(tokenizer.token_bytes)
    chunks = Chunks(answer, form, Envelope("id", "o", 0, "mock"), UsageWanted(continuous=True))
    sent = chunks.of(Delta(0, (7, 8), "Well", (), (ToolCallDelta(0, "", "call_0", "f"), *pieces)))
    read = [json.loads(event.removeprefix("data: ")) for event in sent.decode().split("\n\n")[:-1]]
    assert {chunk["usage"]["completion_tokens"] for chunk in read} == {2}
    deltas = [chunk["choices"][0]["delta"] for chunk in read]
    assert deltas[0] == {"content": "Well"}
    assert [delta["tool_calls"][0]["index"] for delta in deltas[1:]] == [0, 0, 1, 1, 2, 2]
    assert_each_client_reads(deltas, [("f", '{"a": 1}'), ("f", "{}"), ("g", '{"b": 2}')])


async def test_one_call_at_most(client, calls):
    body = await whole(client, CHAT_PATH, CHAT | {"parallel_tool_calls": False})
    (choice,) = body["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    # Nothing is generated beyond.
    expected = "Let me see.\n" + CALL.removesuffix("\n</tool_call>")
    assert body["usage"]["completion_tokens"] == calls.streams[0].num_tokens == len(expected)


async def test_a_named_tool_is_called_once_and_that_is_the_end(client, calls):
    """As with OpenAI: what the model did not choose is no reason to stop."""
    body = CHAT | {"tool_choice": NAMED, "parallel_tool_calls": True}
    (choice,) = (await whole(client, CHAT_PATH, body))["choices"]
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "stop"
    *chunks, _ = await stream(client, CHAT_PATH, body)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    heads = [
        call
        for chunk in chunks
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
        if "id" in call
    ]
    assert len(heads) == 1


async def test_a_required_call_may_be_several(client, calls):
    (choice,) = (await whole(client, CHAT_PATH, CHAT | {"tool_choice": "required"}))["choices"]
    assert len(choice["message"]["tool_calls"]) == 2
    assert choice["finish_reason"] == "tool_calls"


async def test_a_call_that_was_cut_off(client, service, say):
    service.script = lambda request: say(CALL[:60])
    (choice,) = (await whole(client, CHAT_PATH, CHAT))["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "P'


@pytest.mark.parametrize("text", ["<tool_call>\n{}", "<tool_call>no", CALL.replace("get", "set")])
async def test_what_is_no_call_is_content(client, service, say, text):
    service.script = lambda request: say(text)
    (choice,) = (await whole(client, CHAT_PATH, CHAT))["choices"]
    assert choice["message"]["content"] == text
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"


async def test_without_tools_a_call_is_text(client, calls, tokenizer):
    for fields in ({"tools": None}, {"tool_choice": "none"}):
        (choice,) = (await whole(client, CHAT_PATH, CHAT | fields))["choices"]
        assert choice["message"]["content"].endswith(CALL)
        assert "get_weather" not in prompt_of(calls, tokenizer)


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_a_forced_call_is_constrained(client, calls, grammars, choice):
    await whole(client, CHAT_PATH, CHAT | {"tool_choice": choice})
    grammar = calls.requests[0].params.grammar
    assert grammar.kind is GrammarKind.LARK
    assert "get_weather" in grammar.source
    assert grammars.checked == [grammar]


async def test_strict_tools_are_constrained_once_they_are_called(client, calls):
    tool = {"type": "function", "function": TOOL["function"] | {"strict": True}}
    await whole(client, CHAT_PATH, CHAT | {"tools": [tool]})
    assert "TAIL" in calls.requests[0].params.grammar.source


async def test_a_schema_that_cannot_be_followed(client, service, grammars):
    grammars.refusal = InvalidRequest("no")
    response = await client.post(CHAT_PATH, json=CHAT | {"tool_choice": "required"})
    assert_refused(response, 400, "tools")
    assert "what calls must look like" in response.text
    assert not service.requests


async def test_a_forced_call_of_what_is_no_object(client, service):
    body = CHAT | tools(parameters={"type": "string"}) | {"tool_choice": "required"}
    assert_refused(await client.post(CHAT_PATH, json=body), 400, "tools")
    assert not service.requests


async def test_a_conversation_with_calls(client, service, tokenizer):
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    await whole(client, CHAT_PATH, {"messages": messages})
    prompt = prompt_of(service, tokenizer)
    assert '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>' in prompt
    assert "<tool_response>\nsunny\n</tool_response>" in prompt


def tools(**function: object) -> dict[str, object]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


def deep(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": [5]}, "tools"),
        ({"tools": [{"type": "code"}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        (tools(name="a b"), "tools"),
        (tools(name=""), "tools"),
        (tools(name="x" * 65), "tools"),
        (tools(parameters=5), "tools"),
        (tools(parameters=deep(70)), "tools"),
        (tools(parameters={"enum": ["x" * 70_000]}), "tools"),
        (tools(description=5), "tools"),
        (tools(description="x" * 300_000), "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{}] * 60_000}, "tools"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
        (tools() | {"tool_choice": NAMED}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [TOOL], "guided_regex": "a"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
    ],
)
async def test_bad_tools(client, service, fields, param):
    assert_refused(await client.post(CHAT_PATH, json={"messages": [USER], **fields}), 400, param)
    assert not service.requests


async def test_tools_are_for_conversations(client):
    assert_refused(await client.post(TEXT_PATH, json=TEXT | {"tools": [TOOL]}), 400, "tools")
