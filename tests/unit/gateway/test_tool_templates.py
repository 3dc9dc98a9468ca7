"""Tools with models whose chat templates refuse some conversations."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_client import CHAT_PATH, Json, whole
from scripted_service import ended

from tandem.artifacts.resolve import MOCK_FOLDER
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.sequence import FinishReason

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "description": "does it"}}
TOOLS = {"tools": [TOOL]}

# As Llama 3.1's does, whose models make several calls at once all the same.
ONE_CALL = """
{%- if tools %}{{ tools | tojson }}<|python_tag|>{% endif %}
{%- for message in messages %}
    {%- if message.tool_calls and message.tool_calls | length != 1 %}
        {{- raise_exception("one call at once") }}
    {%- elif message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- "\\n" ~ message.content ~ "call " ~ call.name ~ " " ~ call.arguments | tojson }}
    {%- else %}
        {{- "\\n" ~ message.role ~ ": " ~ message.content }}
    {%- endif %}
{%- endfor %}"""


@pytest.fixture
def template() -> str:
    return ONE_CALL


@pytest.fixture
def tokenizer(tmp_path: Path, template: str) -> Tokenizer:
    (tmp_path / "tokenizer.json").write_bytes((MOCK_FOLDER / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    return Tokenizer.open(tmp_path)


@pytest.fixture
def prompt_of(client, service, tokenizer):
    async def prompt_of(messages: list[Json], **fields: object) -> str:
        await whole(client, CHAT_PATH, {"messages": messages, **fields})
        return tokenizer.decode(service.requests[-1].prompt_token_ids, skip_special_tokens=False)

    return prompt_of


def call(name: str, call_id: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def calls(*calls: Json, content: str | None = None) -> Json:
    return {"role": "assistant", "content": content, "tool_calls": [*calls]}


def result(text: str, call_id: str) -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


async def test_calls_that_the_model_made_together_are_read_back(client, service, say, prompt_of):
    made = '{"name": "f", "parameters": {"a": 1}}; {"name": "f", "parameters": {"a": 2}}'
    service.script = lambda request: [*say(made)[:-1], ended(FinishReason.STOP)]
    body = await whole(client, CHAT_PATH, {"messages": [USER], **TOOLS})
    message = body["choices"][0]["message"]
    first, second = message["tool_calls"]
    results = [result("one", first["id"]), result("two", second["id"])]
    prompt = await prompt_of([USER, message, *results], **TOOLS)
    _, *lines = prompt.split("\n")
    assert lines == ["user: Hi", 'call f {"a": 1}', "tool: one", 'call f {"a": 2}', "tool: two"]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        # By their ids, whatever comes first.
        (
            [calls(call("f", "1"), call("g", "2")), result("b", "2"), result("a", "1"), USER],
            ["call f {}", "tool: a", "call g {}", "tool: b", "user: Hi"],
        ),
        # One result is missing, and one is of no call.
        (
            [calls(call("f", "1"), call("g", "2")), result("b", "2"), result("c", "3")],
            ["call f {}", "call g {}", "tool: b", "tool: c"],
        ),
        # The same id twice.
        (
            [calls(call("f", "1"), call("g", "1")), result("a", "1"), result("b", "1")],
            ["call f {}", "tool: a", "call g {}", "tool: b"],
        ),
        # Words are said once; the results of a later turn are that turn's.
        (
            [
                calls(call("f", "1"), call("g", "2"), content="Well. "),
                USER,
                calls(call("g", "2")),
                result("b", "2"),
            ],
            ["Well. call f {}", "call g {}", "user: Hi", "call g {}", "tool: b"],
        ),
    ],
)
async def test_each_of_several_calls_is_a_message_with_its_result(prompt_of, messages, expected):
    assert (await prompt_of([USER, *messages])).split("\n")[1:] == ["user: Hi", *expected]
