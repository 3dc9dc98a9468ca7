"""Which format a chat template belongs to, and what its model is told."""

from __future__ import annotations

import json

import pytest

from gateway.request import ChatMessage
from gateway.tools.prompt import template_messages
from gateway.tools.syntax import HERMES, LLAMA, MISTRAL, ToolFormat, tool_format
from gateway.tools.tool import Tool, ToolCall, ToolUse
from tandem.artifacts.chat_template import ChatTemplate

QWEN = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{{ '<tool_call>' }}"
QWEN_CODER = "{% if tools %}<tool_call><function=name>{% endif %}"
LLAMA_3 = '{% if tools %}{"name": function name, "parameters": dictionary}{% endif %}'
MISTRAL_3 = "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]"
MISTRAL_11 = "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]name[ARGS]"
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (QWEN, ToolFormat(HERMES, native=True)),
        (LLAMA_3, ToolFormat(LLAMA, native=True)),
        (MISTRAL_3, ToolFormat(MISTRAL, native=True)),
        (QWEN_CODER, ToolFormat(HERMES, native=False)),
        (MISTRAL_11, ToolFormat(HERMES, native=False)),
        (PLAIN, ToolFormat(HERMES, native=False)),
    ],
)
def test_the_template_tells_the_format(source, expected):
    template = ChatTemplate(source, {})
    assert tool_format(template.source, template.takes_tools) == expected


def test_an_override_wins():
    assert tool_format(PLAIN, False, "mistral") == ToolFormat(MISTRAL, native=False)
    assert tool_format(QWEN, True, "llama") == ToolFormat(LLAMA, native=True)


TOOL = Tool("f", "does it", '{"type":"object","properties":{"a":{"type":"integer"}}}')
CONVERSATION = (
    ChatMessage("user", "go"),
    ChatMessage("assistant", "", tool_calls=(ToolCall("call_1", "f", '{"a": 1}'),)),
    ChatMessage("tool", "done", tool_call_id="call_1"),
)


def test_a_template_that_knows_tools_gets_them_as_they_are():
    messages, tools = template_messages(CONVERSATION, ToolUse((TOOL,)), ToolFormat(HERMES, True))
    assert tools == [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "does it",
                "parameters": json.loads(TOOL.parameters),
            },
        }
    ]
    assert messages[1]["tool_calls"] == [
        {"type": "function", "id": "call_1", "function": {"name": "f", "arguments": {"a": 1}}}
    ]
    assert messages[2] == {"role": "tool", "content": "done", "tool_call_id": "call_1"}


def test_mistrals_ids_have_nine_characters():
    messages, _ = template_messages(CONVERSATION, ToolUse((TOOL,)), ToolFormat(MISTRAL, True))
    call_id = messages[1]["tool_calls"][0]["id"]
    assert len(call_id) == 9 and call_id.isalnum()
    assert messages[2]["tool_call_id"] == call_id


@pytest.mark.parametrize("native", [True, False])
def test_the_developer_speaks_as_the_system(native):
    conversation = (ChatMessage("developer", "Be brief."),)
    messages, _ = template_messages(conversation, None, ToolFormat(HERMES, native))
    assert messages == [{"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_other_templates_get_them_in_the_system_message(system):
    conversation = CONVERSATION
    if system:
        conversation = (ChatMessage("system", system), *conversation)
    messages, tools = template_messages(conversation, ToolUse((TOOL,)), ToolFormat(HERMES, False))
    assert tools is None
    first, *rest = messages
    assert first["role"] == "system"
    assert first["content"].startswith(system or "You can call")
    assert '"name": "f"' in first["content"]
    assert rest == [
        {"role": "user", "content": "go"},
        {
            "role": "assistant",
            "content": '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        },
        {"role": "user", "content": "<tool_response>\ndone\n</tool_response>"},
    ]


def test_arguments_that_were_cut_off_stay_a_text():
    call = ToolCall("call_1", "f", '{"a": ')
    messages, _ = template_messages(
        [ChatMessage("assistant", "", tool_calls=(call,))], None, ToolFormat(HERMES, True)
    )
    assert messages[0]["tool_calls"][0]["function"]["arguments"] == '{"a": '
