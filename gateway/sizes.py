"""How large a prompt is: the characters of all that its rendering is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.request import ChatMessage, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from gateway.tools.tool import Tool, ToolUse


def request_size(request: GenerationRequest) -> int:
    """What tokenising all prompts of a request takes, more or less: characters, and tokens of what
    is tokenised already."""
    return sum(prompt_size(prompt, request.tools) for prompt in request.prompts)


def prompt_size(prompt: Prompt, tools: ToolUse | None = None) -> int:
    """Likewise of one prompt, with the tools that it tells of."""
    match prompt:
        case TextPrompt(text):
            return len(text)
        case TokenPrompt(token_ids):
            return len(token_ids)
    chars = sum(map(message_chars, prompt.messages)) + tools_chars(tools)
    return chars + template_kwargs_chars(prompt.template_kwargs)


def message_chars(message: ChatMessage) -> int:
    """Characters of a message, its calls among them."""
    calls = sum(len(call.name) + len(call.arguments) + len(call.id) for call in message.tool_calls)
    fields = (message.role, message.content, message.name, message.tool_call_id)
    return sum(map(len, fields)) + calls


def template_kwargs_chars(kwargs: Mapping[str, Any]) -> int:
    """Characters of what a chat template is told besides the messages."""
    return sum(len(name) + len(str(value)) for name, value in kwargs.items())


def tools_chars(tools: ToolUse | None) -> int:
    """Characters of what a prompt says of its tools."""
    return sum(map(_tool_chars, tools.tools)) if tools else 0


def _tool_chars(tool: Tool) -> int:
    return len(tool.name) + len(tool.description) + len(tool.parameters)
