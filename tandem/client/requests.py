"""What is asked for."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, TypeVar, Unpack

from google.protobuf.message import Message as WireMessage

from tandem.client.completion import ToolCall
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2

Json = Mapping[str, Any]
M = TypeVar("M", bound=WireMessage)

PROMPTS = ("prompt", "token_ids", "messages")
FORMS = ("json_object", "json_schema", "regex", "grammar", "choice")
TEMPLATE_KWARGS = "chat_template_kwargs"
TOOL_MODES = {
    "none": inference_pb2.TOOL_MODE_NONE,
    "auto": inference_pb2.TOOL_MODE_AUTO,
    "required": inference_pb2.TOOL_MODE_REQUIRED,
}


class Message(TypedDict):
    """One message of a conversation. `role` is "system", "user", "assistant" or "tool".

    `content` is a text, or text parts in OpenAI's form; an assistant's may be None. `tool_calls`
    are those of an earlier `Completion`, or in OpenAI's form; a tool's message has the id of the
    call that it answers.
    """

    role: str
    content: str | Sequence[Json] | None
    name: NotRequired[str]
    tool_calls: NotRequired[Sequence[ToolCall | Json] | None]
    tool_call_id: NotRequired[str]


class GenerateArguments(TypedDict, total=False):
    """Exactly one of `prompt`, `token_ids` and `messages`, and how to go on from it. The first two
    may be lists of prompts, each of which is answered `n` times. Tokens may be arrays, numpy's too.

    What is absent, or None, takes the model's own default, or else: temperature 1, all tokens as
    candidates (`top_k` 0 or -1), a random seed, as many tokens as fit. `temperature` 0 is greedy.
    `stop` strings are not in the answer unless `include_stop`. `logprobs` asks for each token's
    log-probability and those of so many likeliest ones; with `echo`, which lets an answer begin
    with its prompt, also of each prompt token. `logit_bias` is by token id. Cached KV is shared
    only among requests with the same `cache_salt`. A lower `priority` goes first; 0 is usual.

    At most one of these says what an answer must look like: `json_object` (any), `json_schema` (a
    mapping or its JSON), `regex`, `grammar` (Lark's notation), `choice` (one of these texts).

    `chat_template_kwargs` are further variables of the chat template, for `messages`. `tools` and
    `tool_choice` are in OpenAI's form: `{"type": "function", "function": {"name": ...,
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
    chat_template_kwargs: Mapping[str, bool | str | float]
    parallel_tool_calls: bool
    request_id: str
    cache_salt: str
    priority: int


def build_request(**arguments: Unpack[GenerateArguments]) -> inference_pb2.GenerateRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    given = _given(arguments)
    if not given.get("json_object"):
        # That it is not to be one asks for no form.
        given.pop("json_object", None)
    _check_exactly_one(given, PROMPTS)
    _check_conversation(given)
    _check_at_most_one(given, FORMS)
    return _encoded(inference_pb2.GenerateRequest, given)


class TokenizeArguments(TypedDict, total=False):
    """`prompt` or `messages`, and what the prompt is made with. `tools` are in OpenAI's form."""

    prompt: str
    messages: Sequence[Message]
    model: str
    tools: Sequence[Json]
    chat_template_kwargs: Mapping[str, bool | str | float]
    add_special_tokens: bool
    add_generation_prompt: bool


def build_tokenize_request(
    **arguments: Unpack[TokenizeArguments],
) -> inference_pb2.TokenizeRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    given = _given(arguments)
    _check_exactly_one(given, ("prompt", "messages"))
    _check_conversation(given)
    return _encoded(inference_pb2.TokenizeRequest, given)


def build_detokenize_request(
    token_ids: Sequence[int], model: str
) -> inference_pb2.DetokenizeRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    try:
        return inference_pb2.DetokenizeRequest(token_ids=token_ids, model=model)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"the request cannot be encoded: {error}") from error


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """None is as good as absent."""
    return {name: value for name, value in arguments.items() if value is not None}


def _check_exactly_one(given: Collection[str], names: Sequence[str]) -> None:
    _check_at_most_one(given, names)
    if not any(name in given for name in names):
        raise InvalidRequest(f"exactly one of {', '.join(names)} is needed")


def _check_at_most_one(given: Collection[str], names: Sequence[str]) -> None:
    if sum(name in given for name in names) > 1:
        raise InvalidRequest(f"only one of {', '.join(names)} can be given")


def _check_conversation(given: Collection[str]) -> None:
    # In the message they are a conversation's, of which there would then be one.
    if TEMPLATE_KWARGS in given and "messages" not in given:
        raise InvalidRequest(f"{TEMPLATE_KWARGS} go with messages", param=TEMPLATE_KWARGS)


def _encoded(kind: type[M], given: Mapping[str, Any]) -> M:
    """The message, argument by argument: protobuf does not always say which it cannot take."""
    message = kind()
    for name, value in given.items():
        try:
            message.MergeFrom(kind(**_fields(name, value)))
        except KeyError as error:
            raise InvalidRequest(f"{name} lacks {error}", param=name) from error
        # numpy's arrays raise the last of these where others raise the first.
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise InvalidRequest(f"{name} cannot be encoded: {error}", param=name) from error
    return message


def _fields(name: str, value: Any) -> dict[str, Any]:
    """An argument in the message's terms."""
    if name in PROMPTS:
        return _prompt_field(name, value)
    if name == TEMPLATE_KWARGS:
        return {"chat": {"template_kwargs": json.dumps(value)}}
    if name in FORMS:
        return {"answer_form": _answer_form(name, value)}
    return {"num_choices" if name == "n" else name: _value(name, value)}


def _value(name: str, value: Any) -> Any:
    match name:
        case "stop" if isinstance(value, str):
            return [value]
        case "top_k" if value == -1:
            # vLLM's clients say so for all.
            return 0
        case "logit_bias":
            return [{"token_id": each, "bias": bias} for each, bias in value.items()]
        case "tools":
            return [_tool(tool["function"]) for tool in value]
        case "tool_choice":
            return _tool_choice(value)
        case _:
            return value


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
    fields = _given(message)
    calls = [_tool_call(call) for call in fields.pop("tool_calls", ())]
    content = fields.pop("content", "" if message["role"] == "assistant" else None)
    if content is None:
        # In the message it would be a text, an empty one.
        raise InvalidRequest("a message must have content", param="messages")
    if not isinstance(content, str):
        content = "\n".join(map(_part_text, content))
    return inference_pb2.ChatMessage(tool_calls=calls, content=content, **fields)


def _tool_call(call: ToolCall | Json) -> inference_pb2.ToolCall:
    if isinstance(call, Mapping):
        function = call["function"]
        call = ToolCall(call["id"], function["name"], function["arguments"])
    return inference_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)


def _part_text(part: Json) -> str:
    if part["type"] != "text":
        raise InvalidRequest("messages: only text parts are served", param="messages")
    text: str = part["text"]
    return text


def _answer_form(name: str, value: Any) -> inference_pb2.AnswerForm:
    match name:
        case "json_object":
            return inference_pb2.AnswerForm(json_object=inference_pb2.AnyJsonObject())
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


def _tool(function: Json) -> inference_pb2.Tool:
    parameters = function.get("parameters")
    return inference_pb2.Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=json.dumps(parameters) if parameters else "",
        strict=bool(function.get("strict")),
    )


def _tool_choice(choice: str | Json) -> inference_pb2.ToolChoice:
    if not isinstance(choice, str):
        name = choice["function"]["name"]
        return inference_pb2.ToolChoice(mode=inference_pb2.TOOL_MODE_REQUIRED, name=name)
    if choice not in TOOL_MODES:
        raise InvalidRequest(
            f"tool_choice must be one of {', '.join(TOOL_MODES)}, or name a tool",
            param="tool_choice",
        )
    return inference_pb2.ToolChoice(mode=TOOL_MODES[choice])
