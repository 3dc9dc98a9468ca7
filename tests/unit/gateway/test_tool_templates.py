"""Tools with models whose chat templates refuse some conversations."""

from __future__ import annotations

import json
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

# As Mistral's first ones do.
NO_SYSTEM = """
{%- for message in messages %}
    {%- if (message.role == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("user and assistant in turn") }}
    {%- endif %}
    {{- "<" ~ message.role ~ ">" ~ message.content }}
{%- endfor %}"""
# As Llama 2's does.
SYSTEM_FIRST = """
{%- for message in messages %}
    {%- set is_system = loop.first and message.role == "system" %}
    {%- set turn = loop.index0 - (1 if messages[0].role == "system" else 0) %}
    {%- if not is_system and (message.role == "user") != (turn % 2 == 0) %}
        {{- raise_exception("user and assistant in turn") }}
    {%- endif %}
    {{- "<" ~ message.role ~ ">" ~ message.content }}
{%- endfor %}"""
NAMED = [
    {"name": "default", "template": "{{ messages[0].content }}"},
    {"name": "tool_use", "template": "{{ tools | length }} tools <tool_call>"},
]
# What it does not know it leaves out.
DEAF = """
{%- for message in messages if message.role in ("user", "assistant") %}
    {{- "<" ~ message.role ~ ">" ~ message.content }}
{%- endfor %}"""


@pytest.fixture
def template() -> str:
    return ONE_CALL


@pytest.fixture
def tokenizer(tmp_path: Path, template: str | list[dict[str, str]]) -> Tokenizer:
    (tmp_path / "tokenizer.json").write_bytes((MOCK_FOLDER / "tokenizer.json").read_bytes())
    config = {"chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.open(tmp_path)


@pytest.fixture
def prompt_of(client, service, tokenizer):
    async def prompt_of(messages: list[Json], **fields: object) -> str:
        await whole(client, CHAT_PATH, {"messages": messages, **fields})
        return tokenizer.decode(service.requests[-1].prompt_token_ids, skip_special_tokens=False)

    return prompt_of


def call(name: str, call_id: str, arguments: str = "{}") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


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


@pytest.mark.parametrize("template", [NAMED])
async def test_tools_may_have_a_template_of_their_own(prompt_of):
    assert await prompt_of([USER]) == "Hi"
    assert await prompt_of([USER], **TOOLS) == "1 tools <tool_call>"


RESULTS = "<tool_response>\na\n</tool_response>\n<tool_response>\nb\n</tool_response>"
WRITTEN = "\n".join(
    f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>' for name in "fg"
)
TWO_CALLS = [calls(call("f", "1"), call("g", "2")), result("a", "1"), result("b", "2")]


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF])
async def test_without_a_system_message_the_user_tells_of_the_tools(prompt_of, template):
    prompt = await prompt_of([USER, {"role": "assistant", "content": "Yes?"}, USER], **TOOLS)
    told, rest = prompt.split("\n\nHi", maxsplit=1)
    assert told.startswith("<user>You can call these functions") and '"name": "f"' in told
    assert rest == "<assistant>Yes?<user>Hi"
    # Who speaks first is no user: then one is made.
    prompt = await prompt_of([{"role": "assistant", "content": "Yes?"}], **TOOLS)
    assert prompt.startswith("<user>You can call") and prompt.endswith("<assistant>Yes?")


@pytest.mark.parametrize("template", [SYSTEM_FIRST])
async def test_where_it_takes_a_system_message_that_tells_of_them(prompt_of, template):
    for system in ([], [{"role": "system", "content": "Be brief."}]):
        prompt = await prompt_of([*system, USER], **TOOLS)
        told, said = prompt.split("<user>")
        assert told.startswith("<system>Be brief.\n\nYou can" if system else "<system>You can")
        assert said == "Hi"


@pytest.mark.parametrize("template", [NO_SYSTEM, SYSTEM_FIRST])
async def test_results_are_one_message_of_the_users(prompt_of, template):
    spoken = f"<user>Hi<assistant>{WRITTEN}<user>{RESULTS}"
    assert await prompt_of([USER, *TWO_CALLS]) == spoken
    assert await prompt_of([USER, *TWO_CALLS, USER]) == f"{spoken}\nHi"
    answered = [USER, *TWO_CALLS, {"role": "assistant", "content": "So."}, USER]
    assert await prompt_of(answered) == f"{spoken}<assistant>So.<user>Hi"
    assert (await prompt_of([USER, *TWO_CALLS], **TOOLS)).endswith(spoken.removeprefix("<user>"))


@pytest.mark.parametrize("template", [DEAF])
async def test_what_users_say_themselves_is_left_as_it_is(prompt_of, template):
    assert await prompt_of([USER, USER]) == "<user>Hi<user>Hi"
    conversation = [USER, USER, *TWO_CALLS, USER, USER]
    assert (await prompt_of(conversation)).endswith(f"<user>{RESULTS}\nHi<user>Hi")


@pytest.mark.parametrize("template", [ONE_CALL, NO_SYSTEM])
async def test_a_call_s_letters_are_shown_as_they_are(prompt_of):
    prompt = await prompt_of([USER, calls(call("f", "1", '{"city": "Zürich 東京"}'))])
    assert '{"city": "Zürich 東京"}' in prompt


@pytest.mark.parametrize("template", [ONE_CALL, NO_SYSTEM])
async def test_half_a_character_in_a_call_is_shown_as_such(prompt_of):
    """A model may write any escape, and what it has written comes back."""
    arguments = r'{"half": "\ud83d!", "whole": "\ud83d\ude00"}'
    prompt = await prompt_of([USER, calls(call("f", "1", arguments))])
    assert '{"half": "\ufffd!", "whole": "\U0001f600"}' in prompt
