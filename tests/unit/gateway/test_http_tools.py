"""Tool calls over HTTP."""

from __future__ import annotations

import json

import pytest
from http_client import CHAT_PATH, TEXT, TEXT_PATH, assert_refused, stream, whole
from scripted_service import Step, ended

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
