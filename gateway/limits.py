"""What a request may be at the most. Checked before any work for it, on every entry path."""

from __future__ import annotations

import string
from collections.abc import Collection

from gateway.request import ChatMessage, ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from gateway.tokens import ServedModel
from tandem.core.errors import ContextLengthExceeded, InvalidRequest, NotFound
from tandem.core.sampling_params import MAX_STOP_TOKEN_IDS

DEFAULT_MODEL = "default"
MAX_PROMPT_CHARS = 2**20
MAX_PROMPT_TOKENS = 2**20
MAX_MESSAGES = 2048
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_REQUEST_ID_CHARS = 128
REQUEST_ID_CHARS = frozenset(string.ascii_letters + string.digits + "-_.:/=+@")
ROLES = ("system", "user", "assistant")


def max_total_tokens(model: ServedModel) -> int:
    """Tokens of prompt and answer together, at the most."""
    return min(model.max_model_len, model.max_sequence_tokens)


def check_counts(
    *, num_messages: int, num_prompt_tokens: int, num_stops: int, num_stop_token_ids: int
) -> None:
    """The lengths of lists, before anything is made of their entries. Raises `InvalidRequest`."""
    for count, limit, param in (
        (num_messages, MAX_MESSAGES, "messages"),
        (num_prompt_tokens, MAX_PROMPT_TOKENS, "prompt"),
        (num_stops, MAX_STOPS, "stop"),
        (num_stop_token_ids, MAX_STOP_TOKEN_IDS, "stop_token_ids"),
    ):
        if count > limit:
            raise InvalidRequest(
                f"{param} must have at most {limit} entries, and has {count}", param=param
            )


def check_model_name(name: str, model: ServedModel) -> None:
    """Raises `NotFound` unless `name` is the served model's, `default` or empty."""
    if name not in ("", DEFAULT_MODEL, model.name):
        # The name is the client's; `!a` and the cut keep it harmless in a log or a terminal.
        raise NotFound(f"the model {name[:64]!a} is not served here", param="model")


def check_request(request: GenerationRequest, model: ServedModel) -> None:
    """All that can be said before tokenising. Raises `InvalidRequest`."""
    _check_request_id(request.request_id)
    _check_prompt(request, model)
    _check_stops(request.stop)
    _at_most(MAX_STOP_TOKEN_IDS, request.stop_token_ids, "stop_token_ids", "entries")
    _check_ids(request.stop_token_ids, model, "stop_token_ids")


def check_prompt_length(num_tokens: int, model: ServedModel, param: str) -> None:
    """Whether at least one token can follow. Raises `InvalidRequest`."""
    if num_tokens == 0:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    limit = max_total_tokens(model)
    if num_tokens >= limit:
        raise ContextLengthExceeded(
            f"this model takes at most {limit} tokens, of which one must be generated, and the "
            f"prompt has {num_tokens}",
            param=param,
        )


def check_max_tokens(num_prompt_tokens: int, max_tokens: int, model: ServedModel) -> None:
    """Raises `ContextLengthExceeded` if the answer could not have this length."""
    limit = max_total_tokens(model)
    if num_prompt_tokens + max_tokens > limit:
        raise ContextLengthExceeded(
            f"this model takes at most {limit} tokens, and the request asks for "
            f"{num_prompt_tokens + max_tokens}: {num_prompt_tokens} of the prompt and {max_tokens} "
            "to generate",
            param="max_tokens",
        )


def prompt_param(request: GenerationRequest) -> str:
    """The field that the prompt came in."""
    return "messages" if isinstance(request.prompt, ChatPrompt) else "prompt"


def _check_request_id(request_id: str) -> None:
    _at_most(MAX_REQUEST_ID_CHARS, request_id, "request_id", "characters")
    if not REQUEST_ID_CHARS.issuperset(request_id):
        raise InvalidRequest(
            "request_id must be of ASCII letters, digits and -_.:/=+@", param="request_id"
        )


def _check_prompt(request: GenerationRequest, model: ServedModel) -> None:
    match request.prompt:
        case TextPrompt(text):
            _at_most(MAX_PROMPT_CHARS, text, "prompt", "characters")
        case TokenPrompt(token_ids):
            check_prompt_length(len(token_ids), model, "prompt")
            _check_ids(token_ids, model, "prompt")
        case ChatPrompt(messages):
            _check_messages(messages)


def _check_messages(messages: Collection[ChatMessage]) -> None:
    if not messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    _at_most(MAX_MESSAGES, messages, "messages", "entries")
    for message in messages:
        if message.role not in ROLES:
            raise InvalidRequest(f"a role must be one of {', '.join(ROLES)}", param="messages")
    num_chars = sum(len(message.content) for message in messages)
    if num_chars > MAX_PROMPT_CHARS:
        raise InvalidRequest(
            f"messages must have at most {MAX_PROMPT_CHARS} characters, and have {num_chars}",
            param="messages",
        )


def _check_stops(stops: Collection[str]) -> None:
    _at_most(MAX_STOPS, stops, "stop", "entries")
    for stop in stops:
        _at_most(MAX_STOP_CHARS, stop, "stop", "characters each")
        if not stop:
            raise InvalidRequest("stop must not contain an empty string", param="stop")


def _check_ids(token_ids: Collection[int], model: ServedModel, param: str) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < model.vocab_size):
        raise InvalidRequest(f"{param}: token ids are in [0, {model.vocab_size})", param=param)


def _at_most(limit: int, values: Collection[object], param: str, what: str) -> None:
    if len(values) > limit:
        raise InvalidRequest(
            f"{param} must have at most {limit} {what}, and has {len(values)}", param=param
        )
