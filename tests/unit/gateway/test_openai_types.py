"""What is taken and what is answered, against the types of OpenAI's own package: no field that its
clients can send is unknown here, and all answers are what they say."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_client import CHAT, CHAT_PATH, TEXT, TEXT_PATH, stream
from openai.types import Completion, Model
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionAssistantMessageParam,
    ChatCompletionChunk,
    ChatCompletionContentPartTextParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase
from openai.types.shared_params import FunctionDefinition, ResponseFormatJSONSchema
from openai.types.shared_params.response_format_json_schema import JSONSchema

from gateway.http.schemas.base import Body
from gateway.http.schemas.chat import ChatBody, MessageBody, TextPart
from gateway.http.schemas.completion import CompletionBody
from gateway.http.schemas.generation import StreamOptions
from gateway.http.schemas.structured import JsonSchemaFormat, ResponseFormat
from gateway.http.schemas.tools import FunctionBody, ToolBody, ToolCallBody
from gateway.http.unserved import UNSERVED, WITHOUT_EFFECT

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'
CHATS: list[dict[str, Any]] = [
    CHAT,
    CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2},
    CHAT | {"tools": [TOOL]},
]
TEXTS: list[dict[str, Any]] = [TEXT, TEXT | {"n": 2, "logprobs": 2}, TEXT | {"echo": True}]


@pytest.mark.parametrize(
    ("asked", "body", "prefix"),
    [
        (chat_params.CompletionCreateParamsBase, ChatBody, ""),
        (CompletionCreateParamsBase, CompletionBody, ""),
        (ChatCompletionStreamOptionsParam, StreamOptions, "stream_options."),
        (ChatCompletionUserMessageParam, MessageBody, "messages[]."),
        (ChatCompletionAssistantMessageParam, MessageBody, "messages[]."),
        (ChatCompletionToolMessageParam, MessageBody, "messages[]."),
        (ChatCompletionContentPartTextParam, TextPart, "messages[].content[]."),
        (ChatCompletionMessageFunctionToolCallParam, ToolCallBody, "messages[].tool_calls[]."),
        (ChatCompletionFunctionToolParam, ToolBody, "tools[]."),
        (FunctionDefinition, FunctionBody, "tools[].function."),
        (ResponseFormatJSONSchema, ResponseFormat, "response_format."),
        (JSONSchema, JsonSchemaFormat, "response_format.json_schema."),
    ],
)
def test_nothing_that_can_be_asked_for_is_unknown(
    asked: type, body: type[Body], prefix: str
) -> None:
    served = {field.alias or name for name, field in body.model_fields.items()}
    names = {name for name in asked.__annotations__ if name not in served}
    assert {prefix + name for name in names} <= UNSERVED.keys() | WITHOUT_EFFECT


@pytest.fixture
def calling(service: Any, say: Any) -> None:
    service.script = lambda request: say("Well. " + CALL)


@pytest.mark.usefixtures("calling")
@pytest.mark.parametrize("body", CHATS)
async def test_a_chat_is_of_its_type(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post(CHAT_PATH, json=body)
    answer = ChatCompletion.model_validate_json(response.content, strict=True)
    assert bool(answer.choices[0].message.tool_calls) is ("tools" in body)
    for chunk in await stream(client, CHAT_PATH, body):
        ChatCompletionChunk.model_validate(chunk, strict=True)


@pytest.mark.parametrize("body", TEXTS)
async def test_a_text_is_of_its_type(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post(TEXT_PATH, json=body)
    Completion.model_validate_json(response.content, strict=True)
    for chunk in await stream(client, TEXT_PATH, body):
        for choice in chunk["choices"]:
            # Null before the end, which the type does not say.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate(chunk, strict=True)


async def test_models_are_of_their_type(client: httpx.AsyncClient) -> None:
    for model in (await client.get("/v1/models")).json()["data"]:
        Model.model_validate(model, strict=True)
