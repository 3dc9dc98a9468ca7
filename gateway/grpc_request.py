"""`GenerateRequest` in the protocol-neutral form."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson

from gateway import grammars
from gateway.limits import (
    DEFAULT_MODEL,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TEMPLATE_KWARGS_CHARS,
    MAX_TOOL_CALLS,
    check_count,
    check_size,
)
from gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from gateway.tools.limits import MAX_TOOLS
from gateway.tools.tool import NO_PARAMETERS, Tool, ToolCall, ToolMode, ToolUse
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar
from tandem.core.sampling_params import MAX_LOGIT_BIAS, MAX_STOP_TOKEN_IDS
from tandem.core.token_ids import from_bytes
from tandem.v1 import inference_pb2

ANSWER_FORM = "response_format"
TEMPLATE_KWARGS = "chat_template_kwargs"
# As many as they may have, each written as an escape, and some.
MAX_TEMPLATE_KWARGS_TEXT = 8 * MAX_TEMPLATE_KWARGS_CHARS


def request_from_wire(message: inference_pb2.GenerateRequest) -> GenerationRequest:
    """Raises `InvalidRequest`. The fields have HTTP's names in it."""
    _check_counts(message)
    return GenerationRequest(
        prompts=tuple(_prompts(message)),
        model=message.model or DEFAULT_MODEL,
        request_id=message.request_id,
        priority=message.priority,
        num_choices=message.num_choices if message.HasField("num_choices") else 1,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        min_tokens=message.min_tokens,
        temperature=_optional(message, "temperature"),
        top_p=_optional(message, "top_p"),
        top_k=message.top_k if message.HasField("top_k") else None,
        min_p=_optional(message, "min_p"),
        presence_penalty=_optional(message, "presence_penalty"),
        frequency_penalty=_optional(message, "frequency_penalty"),
        repetition_penalty=_optional(message, "repetition_penalty"),
        logit_bias=tuple({each.token_id: each.bias for each in message.logit_bias}.items()),
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        include_stop=message.include_stop,
        ignore_eos=message.ignore_eos,
        skip_special_tokens=not message.HasField("skip_special_tokens")
        or message.skip_special_tokens,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        echo=message.echo,
        cache_salt=message.cache_salt,
        grammar=_grammar(message.answer_form),
        tools=_tools(message),
    )


def tokenize_prompt(message: inference_pb2.TokenizeRequest) -> Prompt:
    """The prompt to tokenise. Raises `InvalidRequest`."""
    _check_parts(message)
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "chat":
            return _chat_prompt(message.chat)
    raise InvalidRequest("a prompt is needed: text or chat", param="prompt")


def tokenize_tools(message: inference_pb2.TokenizeRequest) -> ToolUse | None:
    """The tools that its prompt tells of. Raises `InvalidRequest`."""
    _check_parts(message)
    if not message.tools:
        return None
    _check_conversation(message)
    return ToolUse(tuple(map(_tool, message.tools)))


def token_ids_of(field: Sequence[int]) -> array[int]:
    """Of a message. No item becomes an object: of 131,072 that would take 10 ms."""
    return from_bytes(np.asarray(field, np.uint32).tobytes())


def _check_counts(message: inference_pb2.GenerateRequest) -> None:
    for count, limit, param in (
        (len(message.texts.texts), MAX_CHOICES, "prompt"),
        (len(message.token_id_lists.lists), MAX_CHOICES, "prompt"),
        (len(message.stop), MAX_STOPS, "stop"),
        (len(message.stop_token_ids), MAX_STOP_TOKEN_IDS, "stop_token_ids"),
        (len(message.logit_bias), MAX_LOGIT_BIAS, "logit_bias"),
        (len(message.answer_form.one_of.texts), grammars.MAX_ALTERNATIVES, ANSWER_FORM),
    ):
        check_count(count, limit, param)
    _check_parts(message)
    lists = message.token_id_lists.lists
    check_size(num_tokens=len(message.token_ids.ids) + sum(len(each.ids) for each in lists))


def _check_parts(message: inference_pb2.GenerateRequest | inference_pb2.TokenizeRequest) -> None:
    messages = message.chat.messages
    check_count(len(messages), MAX_MESSAGES, "messages")
    check_count(len(message.tools), MAX_TOOLS, "tools")
    num_calls = 0
    for each in messages:
        check_count(len(each.tool_calls), MAX_TOOL_CALLS, "messages")
        num_calls += len(each.tool_calls)
    check_size(num_parts=len(messages) + len(message.tools) + num_calls)


def _optional(message: inference_pb2.GenerateRequest, name: str) -> float | None:
    return float(getattr(message, name)) if message.HasField(name) else None  # type: ignore[arg-type]


def _prompts(message: inference_pb2.GenerateRequest) -> Iterable[Prompt]:
    match message.WhichOneof("prompt"):
        case "text":
            return [TextPrompt(message.text)]
        case "token_ids":
            return [TokenPrompt(token_ids_of(message.token_ids.ids))]
        case "chat":
            return [_chat_prompt(message.chat)]
        case "texts":
            return map(TextPrompt, message.texts.texts)
        case "token_id_lists":
            return [TokenPrompt(token_ids_of(each.ids)) for each in message.token_id_lists.lists]
    raise InvalidRequest("a prompt is needed: text, token_ids or chat", param="prompt")


def _chat_prompt(chat: inference_pb2.Chat) -> ChatPrompt:
    return ChatPrompt(
        tuple(map(_chat_message, chat.messages)), _template_kwargs(chat.template_kwargs)
    )


def _template_kwargs(text: str) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > MAX_TEMPLATE_KWARGS_TEXT:
        raise InvalidRequest(f"{TEMPLATE_KWARGS} are too long", param=TEMPLATE_KWARGS)
    try:
        kwargs = orjson.loads(text)
    except orjson.JSONDecodeError:
        kwargs = None
    if not isinstance(kwargs, dict):
        raise InvalidRequest(f"{TEMPLATE_KWARGS} must be a JSON object", param=TEMPLATE_KWARGS)
    return kwargs


def _chat_message(message: inference_pb2.ChatMessage) -> ChatMessage:
    return ChatMessage(
        role=message.role,
        content=message.content,
        name=message.name,
        tool_calls=tuple(
            ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls
        ),
        tool_call_id=message.tool_call_id,
    )


def _grammar(form: inference_pb2.AnswerForm) -> Grammar | None:
    match form.WhichOneof("form"):
        case "json_object":
            return grammars.json_object()
        case "json_schema":
            return grammars.json_schema(form.json_schema, ANSWER_FORM)
        case "regex":
            return grammars.regex(form.regex, ANSWER_FORM)
        case "lark":
            return grammars.lark(form.lark, ANSWER_FORM)
        case "one_of":
            return grammars.one_of(form.one_of.texts, ANSWER_FORM)
    return None


def _tools(message: inference_pb2.GenerateRequest) -> ToolUse | None:
    choice = message.tool_choice
    if not message.tools:
        if choice.name or choice.mode == inference_pb2.TOOL_MODE_REQUIRED:
            raise InvalidRequest("tool_choice goes with tools", param="tool_choice")
        return None
    _check_conversation(message)
    if choice.mode == inference_pb2.TOOL_MODE_NONE:
        return None
    must = choice.name or choice.mode == inference_pb2.TOOL_MODE_REQUIRED
    return ToolUse(
        tools=tuple(map(_tool, message.tools)),
        mode=ToolMode.REQUIRED if must else ToolMode.AUTO,
        only=choice.name,
        parallel=not message.HasField("parallel_tool_calls") or message.parallel_tool_calls,
    )


def _check_conversation(
    message: inference_pb2.GenerateRequest | inference_pb2.TokenizeRequest,
) -> None:
    if message.WhichOneof("prompt") != "chat":
        raise InvalidRequest("tools go with a conversation", param="tools")


def _tool(tool: inference_pb2.Tool) -> Tool:
    return Tool(tool.name, tool.description, tool.parameters or NO_PARAMETERS, tool.strict)
