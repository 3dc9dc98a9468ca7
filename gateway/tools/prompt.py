"""Conversations with tools, in the form that chat templates take."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from gateway.request import ChatMessage
from gateway.tools.syntax import LLAMA, MISTRAL, CallSyntax, ToolFormat
from gateway.tools.tool import Tool, ToolCall, ToolUse

Json = dict[str, Any]

# Mistral's templates refuse ids of another length.
MISTRAL_ID_CHARS = 9
# Half a character, which JSON can escape, and no tokenizer takes.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def template_messages(
    messages: Sequence[ChatMessage], use: ToolUse | None, form: ToolFormat
) -> tuple[list[Json], list[Json] | None]:
    """Messages and tools for the template. One that does not know tools gets them in the system
    message, or in the user's first, and calls and their results as plain text."""
    tools = [_tool(tool) for tool in use.tools] if use else None
    if form.native:
        given = _one_call_each(messages) if form.syntax is LLAMA else messages
        return [_native(message, form.syntax) for message in given], tools
    plain = _plain(messages, form.syntax)
    if tools:
        tell = _in_system if form.takes_system else _before_first_user
        plain = tell(plain, _instructions(tools, form.syntax))
    return plain, None


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = json.loads(tool.parameters)
    return {"type": "function", "function": function}


def _one_call_each(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """Llama's templates refuse a message of several calls, which their models make all the same:
    each becomes a message of its own, with its result behind it if there is one."""
    rest = deque(messages)
    while rest:
        message = rest.popleft()
        if len(message.tool_calls) <= 1:
            yield message
            continue
        results: defaultdict[str, deque[ChatMessage]] = defaultdict(deque)
        while rest and rest[0].role == "tool":
            results[rest[0].tool_call_id].append(rest.popleft())
        for index, call in enumerate(message.tool_calls):
            yield replace(message, content="" if index else message.content, tool_calls=(call,))
            if results[call.id]:
                yield results[call.id].popleft()
        yield from chain.from_iterable(results.values())


def _native(message: ChatMessage, syntax: CallSyntax) -> Json:
    fields: Json = {"role": _role(message), "content": message.content}
    if message.name:
        fields["name"] = message.name
    if message.tool_call_id:
        fields["tool_call_id"] = _call_id(message.tool_call_id, syntax)
    if message.tool_calls:
        fields["tool_calls"] = [_native_call(call, syntax) for call in message.tool_calls]
    return fields


def _role(message: ChatMessage) -> str:
    # OpenAI's newer name for the same thing, which no template of ours knows.
    return "system" if message.role == "developer" else message.role


def _native_call(call: ToolCall, syntax: CallSyntax) -> Json:
    # Templates write the arguments as JSON, so they must be given what they are, not their text.
    function = {"name": call.name, "arguments": _read_arguments(call)}
    return {"type": "function", "id": _call_id(call.id, syntax), "function": function}


def _read_arguments(call: ToolCall) -> object:
    """An object; the text itself if it is none, as when a model was cut off while it wrote it."""
    try:
        arguments = json.loads(call.arguments or "{}")
        if r"\u" in call.arguments:
            arguments = json.loads(LONE_SURROGATE.sub("\ufffd", _json(arguments)))
    except (ValueError, RecursionError):
        return call.arguments
    return arguments if isinstance(arguments, dict) else call.arguments


def _call_id(call_id: str, syntax: CallSyntax) -> str:
    if syntax is MISTRAL and len(call_id) != MISTRAL_ID_CHARS:
        return hashlib.sha256(call_id.encode()).hexdigest()[:MISTRAL_ID_CHARS]
    return call_id


def _plain(messages: Sequence[ChatMessage], syntax: CallSyntax) -> list[Json]:
    """Results are the user's words. Those in a row are one message, with what the user says right
    behind them: some templates refuse two of one role."""
    turns: list[tuple[str, list[str]]] = []
    previous = ""
    for message in messages:
        role = "user" if message.role == "tool" else _role(message)
        if previous == "tool" and role == "user":
            turns[-1][1].append(_said(message, syntax))
        else:
            turns.append((role, [_said(message, syntax)]))
        previous = message.role
    return [{"role": role, "content": "\n".join(said)} for role, said in turns]


def _said(message: ChatMessage, syntax: CallSyntax) -> str:
    if message.role == "tool":
        return f"<tool_response>\n{message.content}\n</tool_response>"
    calls = [_written(call, syntax) for call in message.tool_calls]
    return "\n".join(part for part in (message.content, *calls) if part)


def _written(call: ToolCall, syntax: CallSyntax) -> str:
    """A call as the model would write it."""
    written = _json({"name": call.name, syntax.arguments_key: _read_arguments(call)})
    if syntax.list_opening:
        return f"{syntax.opening}{syntax.list_opening}{written}{syntax.list_closing}"
    return f"{syntax.opening}\n{written}\n{syntax.closing}".strip()


def _instructions(tools: list[Json], syntax: CallSyntax) -> str:
    """What the model is told of the tools."""
    example = _written(ToolCall("", "<name>", '{"<parameter>": "<value>"}'), syntax)
    listed = "\n".join(map(_json, tools))
    return (
        f"You can call these functions, each given as JSON on a line of its own:\n{listed}\n\n"
        f"To call one, answer in exactly this form, with arguments that match its parameters:\n"
        f"{example}\n\n"
        "What it returns comes back to you between <tool_response> and </tool_response>."
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _in_system(messages: list[Json], instructions: str) -> list[Json]:
    """At the end of the system message, which is made if there is none."""
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{instructions}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def _before_first_user(messages: list[Json], instructions: str) -> list[Json]:
    """In the user's first message, which is made if there is none."""
    for index, message in enumerate(messages):
        if message["role"] == "user":
            told = {**message, "content": f"{instructions}\n\n{message['content']}"}
            return [*messages[:index], told, *messages[index + 1 :]]
    return [{"role": "user", "content": instructions}, *messages]
