"""What is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, Unpack

from tandem.client.completion import ToolCall
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2

Json = Mapping[str, Any]

PROMPTS = ("prompt", "token_ids", "messages")
FORMS = ("json_object", "json_schema", "regex", "grammar", "choice")
TOOL_MODES = {
    "none": inference_pb2.TOOL_MODE_NONE,
    "auto": inference_pb2.TOOL_MODE_AUTO,
    "required": inference_pb2.TOOL_MODE_REQUIRED,
}


class Message(TypedDict):
    """One message of a conversation. `role` is "system", "user", "assistant" or "tool".

    `tool_calls` are those of an earlier `Completion`; a tool's message has the id of the call that
    it answers.
    """

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[Sequence[ToolCall]]
    tool_call_id: NotRequired[str]


class GenerateArguments(TypedDict, total=False):
    """Exactly one of `prompt`, `token_ids` and `messages`, and how to go on from it. The first two
    may be lists of prompts, each of which is answered `n` times. Tokens may be arrays, numpy's too.

    What is absent takes the server's default: temperature 1, all tokens as candidates, a random
    seed, as many tokens as fit. `temperature` 0 is greedy. `stop` strings are not in the answer
    unless `include_stop`. `logprobs` asks for each token's log-probability and those of so many
    likeliest ones. `logit_bias` is by token id. Cached KV is shared only among requests with the
    same `cache_salt`. A lower `priority` goes first; 0 is usual.

    At most one of these says what an answer must look like: `json_object` (any), `json_schema` (a
    mapping or its JSON), `regex`, `grammar` (Lark's notation), `choice` (one of these texts).

    `tools` and `tool_choice` are in OpenAI's form: `{"type": "function", "function": {"name": ...,
    "description": ..., "parameters": <JSON schema>}}`; "none", "auto", "required" or
    `{"type": "function", "function": {"name": ...}}`.
    """

    prompt: str | Sequence[str]
    token_ids: Sequence[int] | Sequence[Sequence[int]]
    messages: Sequence[Message]
    model: str
    n: int
    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop: bool
    ignore_eos: bool
    skip_special_tokens: bool
    logprobs: int
    echo: bool
    json_object: bool
    json_schema: Json | str
    regex: str
    grammar: str
    choice: Sequence[str]
    tools: Sequence[Json]
    tool_choice: str | Json
    parallel_tool_calls: bool
    request_id: str
    cache_salt: str
    priority: int


def build_request(**arguments: Unpack[GenerateArguments]) -> inference_pb2.GenerateRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    fields: dict[str, Any] = dict(arguments)
    prompt = _take_one(fields, PROMPTS)
    if prompt is None:
        raise InvalidRequest(f"exactly one of {', '.join(PROMPTS)} is needed")
    form = _take_one(fields, FORMS)
    try:
        return inference_pb2.GenerateRequest(
            **_prompt_field(*prompt),
            answer_form=_answer_form(*form) if form else None,
            **_renamed(fields),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        # protobuf names the field and the type that it wants.
        raise InvalidRequest(f"the request cannot be encoded: {error}") from error


class TokenizeArguments(TypedDict, total=False):
    """`prompt` or `messages`, and what the prompt is made with. `tools` are in OpenAI's form."""

    prompt: str
    messages: Sequence[Message]
    model: str
    tools: Sequence[Json]
    add_special_tokens: bool
    add_generation_prompt: bool


def build_tokenize_request(
    **arguments: Unpack[TokenizeArguments],
) -> inference_pb2.TokenizeRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    fields: dict[str, Any] = dict(arguments)
    prompt = _take_one(fields, ("prompt", "messages"))
    if prompt is None:
        raise InvalidRequest("exactly one of prompt and messages is needed")
    try:
        return inference_pb2.TokenizeRequest(**_prompt_field(*prompt), **_renamed(fields))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidRequest(f"the request cannot be encoded: {error}") from error


def build_detokenize_request(
    token_ids: Sequence[int], model: str
) -> inference_pb2.DetokenizeRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    try:
        return inference_pb2.DetokenizeRequest(token_ids=token_ids, model=model)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the request cannot be encoded: {error}") from error


def _take_one(fields: dict[str, Any], names: Sequence[str]) -> tuple[str, Any] | None:
    found = [(name, fields.pop(name)) for name in names if name in fields]
    if len(found) > 1:
        raise InvalidRequest(f"only one of {', '.join(names)} can be given")
    return found[0] if found else None


def _prompt_field(name: str, value: Any) -> dict[str, Any]:
    match name:
        case "prompt" if isinstance(value, str):
            return {"text": value}
        case "prompt":
            return {"texts": {"texts": value}}
        # Neither by its truth nor by its items' type, which numpy's arrays have otherwise.
        case "token_ids" if len(value) and isinstance(value[0], Iterable):
            return {"token_id_lists": {"lists": [{"ids": ids} for ids in value]}}
        case "token_ids":
            return {"token_ids": {"ids": value}}
        case _:
            return {"chat": {"messages": [_message(each) for each in value]}}


def _message(message: Message) -> inference_pb2.ChatMessage:
    fields: dict[str, Any] = dict(message)
    calls = [
        inference_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)
        for call in fields.pop("tool_calls", ())
    ]
    return inference_pb2.ChatMessage(tool_calls=calls, **fields)


def _answer_form(name: str, value: Any) -> inference_pb2.AnswerForm | None:
    match name:
        case "json_object":
            return _any_json_object() if value else None
        case "json_schema":
            text = value if isinstance(value, str) else json.dumps(value)
            return inference_pb2.AnswerForm(json_schema=text)
        case "regex":
            return inference_pb2.AnswerForm(regex=value)
        case "grammar":
            return inference_pb2.AnswerForm(lark=value)
        case "choice" if isinstance(value, str):
            # Its letters would be the choices.
            raise InvalidRequest("choice must be a list of texts", param="choice")
        case _:
            return inference_pb2.AnswerForm(one_of=inference_pb2.Texts(texts=value))


def _any_json_object() -> inference_pb2.AnswerForm:
    return inference_pb2.AnswerForm(json_object=inference_pb2.AnyJsonObject())


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """The rest, in the message's terms."""
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if "n" in fields:
        fields["num_choices"] = fields.pop("n")
    if "logit_bias" in fields:
        biases = fields["logit_bias"].items()
        fields["logit_bias"] = [{"token_id": each, "bias": bias} for each, bias in biases]
    if "tools" in fields:
        fields["tools"] = [_tool(tool["function"]) for tool in fields["tools"]]
    if "tool_choice" in fields:
        fields["tool_choice"] = _tool_choice(fields["tool_choice"])
    return fields


def _tool(function: Json) -> inference_pb2.Tool:
    parameters = function.get("parameters")
    return inference_pb2.Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=json.dumps(parameters) if parameters else "",
        strict=bool(function.get("strict")),
    )


def _tool_choice(choice: str | Json) -> inference_pb2.ToolChoice:
    if isinstance(choice, str):
        return inference_pb2.ToolChoice(mode=TOOL_MODES[choice])
    return inference_pb2.ToolChoice(
        mode=inference_pb2.TOOL_MODE_REQUIRED, name=choice["function"]["name"]
    )
