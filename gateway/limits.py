"""What a request may be at the most. Checked before any work for it, on every entry path."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from gateway.request import ChatMessage, ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from gateway.sizes import message_chars, template_kwargs_chars
from gateway.tokens import ServedModel
from tandem.core.errors import ContextLengthExceeded, InvalidRequest, NotFound
from tandem.core.sampling_params import MAX_LOGIT_BIAS, MAX_STOP_TOKEN_IDS

DEFAULT_MODEL = "default"
MAX_PROMPT_CHARS = 2**20
# Of all prompts of a request that are tokenised already: some ten milliseconds to read.
MAX_PROMPT_TOKENS = 2**18
MAX_MESSAGES = 2048
MAX_TOOL_CALLS = 128
# Log-probabilities of them, for all answers: what a worker tells of one prompt has 8 bytes each.
MAX_PROMPT_LOGPROBS = 2**19
# Messages, calls and tools together, for the same reason.
MAX_PARTS = 2**13
# Of the prompts that answers begin with, for all answers: some ten milliseconds to write.
MAX_ECHO_CHARS = 2**22
# Answers to one request: its prompts times `n`.
MAX_CHOICES = 128
MAX_TEMPLATE_KWARGS = 32
MAX_TEMPLATE_KWARGS_CHARS = 2**12
# Editors that have code filled in send twenty.
MAX_STOPS = 32
MAX_STOP_CHARS = 256
MAX_CACHE_SALT_CHARS = 256
# Either way from 0, the usual one.
MAX_PRIORITY = 1000
MAX_REQUEST_ID_CHARS = 128
REQUEST_ID_CHARS = frozenset(string.ascii_letters + string.digits + "-_.:/=+@")
ROLES = ("system", "developer", "user", "assistant", "tool")


def max_total_tokens(model: ServedModel) -> int:
    """Tokens of prompt and answer together, at the most."""
    return min(model.max_model_len, model.max_sequence_tokens)


def check_count(count: int, limit: int, param: str) -> None:
    """The length of a list, before anything is made of its entries. Raises `InvalidRequest`."""
    if count > limit:
        raise InvalidRequest(
            f"{param} must have at most {limit} entries, and has {count}", param=param
        )


def check_size(*, num_tokens: int = 0, num_parts: int = 0) -> None:
    """What a request adds up to over all its lists, before anything is made of it: tokens of its
    prompts; messages, calls and tools. Raises `InvalidRequest`."""
    if num_tokens > MAX_PROMPT_TOKENS:
        raise InvalidRequest(
            f"prompt must have at most {MAX_PROMPT_TOKENS} tokens, and has {num_tokens}",
            param="prompt",
        )
    if num_parts > MAX_PARTS:
        raise InvalidRequest(
            f"messages must have at most {MAX_PARTS} entries, their calls and tools included, and "
            f"have {num_parts}",
            param="messages",
        )


def check_model_name(name: str, model: ServedModel) -> None:
    """Raises `NotFound` unless `name` is the served model's, `default` or empty."""
    if name not in ("", DEFAULT_MODEL, model.name):
        raise not_served(name, model)


def not_served(name: str, model: ServedModel | None) -> NotFound:
    """What to say of another model than the one that is served, if there is one."""
    there = f": {model.name} is, also called {DEFAULT_MODEL}" if model else ""
    # The name is the client's; `!a` and the cut keep it harmless in a log or a terminal.
    return NotFound(f"the model {name[:64]!a} is not served here{there}", param="model")


def check_request(request: GenerationRequest, model: ServedModel) -> None:
    """All that can be said before tokenising. Raises `InvalidRequest`."""
    check_request_id(request.request_id)
    _check_urgency(request)
    _check_choices(request)
    for prompt in request.prompts:
        if isinstance(prompt, TokenPrompt):
            check_prompt_length(len(prompt.token_ids), model, request)
    check_prompts(request.prompts, model)
    _check_stops(request.stop)
    _at_most(MAX_CACHE_SALT_CHARS, request.cache_salt, "cache_salt", "characters")
    _at_most(MAX_STOP_TOKEN_IDS, request.stop_token_ids, "stop_token_ids", "entries")
    check_ids(request.stop_token_ids, model, "stop_token_ids")
    _at_most(MAX_LOGIT_BIAS, request.logit_bias, "logit_bias", "entries")
    check_ids([token_id for token_id, _ in request.logit_bias], model, "logit_bias")
    if scores_prompts(request) and any(isinstance(each, ChatPrompt) for each in request.prompts):
        raise InvalidRequest(
            "echo goes with logprobs for texts and tokens, and not for conversations", param="echo"
        )


def scores_prompts(request: GenerationRequest) -> bool:
    """Whether the log-probabilities of its prompts' tokens are asked for."""
    return request.echo and request.logprobs is not None


def wants_no_tokens(request: GenerationRequest) -> bool:
    """Whether nothing is to be generated: the prompt is only to be echoed."""
    return request.echo and request.max_tokens == 0


def check_prompt_logprobs(request: GenerationRequest, prompt_lengths: Sequence[int]) -> None:
    """Raises `InvalidRequest` for more of them than are kept for one client, or told at once."""
    if request.logprobs is None or not scores_prompts(request):
        return
    num_logprobs = request.num_choices * sum(prompt_lengths) * (1 + request.logprobs)
    if num_logprobs > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"logprobs with echo: at most {MAX_PROMPT_LOGPROBS} log-probabilities of prompt tokens "
            f"to a request, those of the likeliest counted in, and these are {num_logprobs}",
            param="logprobs",
        )


def check_echo(request: GenerationRequest, num_prompt_chars: int) -> None:
    """Raises `InvalidRequest` for more text of prompts than is told at once."""
    num_chars = request.num_choices * num_prompt_chars
    if request.echo and num_chars > MAX_ECHO_CHARS:
        raise InvalidRequest(
            f"echo: at most {MAX_ECHO_CHARS} characters of prompts to a request, those of each "
            f"answer counted, and these are {num_chars}",
            param="echo",
        )


def check_prompts(
    prompts: Sequence[TextPrompt | TokenPrompt | ChatPrompt], model: ServedModel
) -> None:
    """Texts' and conversations' lengths, and ids. Raises `InvalidRequest`."""
    for prompt in prompts:
        match prompt:
            case TextPrompt(text):
                _at_most(MAX_PROMPT_CHARS, text, "prompt", "characters")
            case TokenPrompt(token_ids):
                check_ids(token_ids, model, "prompt")
            case ChatPrompt(messages, template_kwargs):
                _check_messages(messages)
                _check_template_kwargs(template_kwargs)


def check_prompt_length(num_tokens: int, model: ServedModel, request: GenerationRequest) -> None:
    """Whether at least one token can follow, if any is wanted. Raises `InvalidRequest`."""
    param = prompt_param(request)
    if num_tokens == 0:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    limit, least = max_total_tokens(model), 0 if wants_no_tokens(request) else 1
    if num_tokens + least > limit:
        must = "of which one must be generated, " if least else ""
        raise _too_long(limit, f"{must}and the prompt has {num_tokens}", param)


def check_max_tokens(
    num_prompt_tokens: int, max_tokens: int, model: ServedModel, param: str
) -> None:
    """Raises `ContextLengthExceeded` if the answer could not have this length."""
    limit = max_total_tokens(model)
    if num_prompt_tokens + max_tokens > limit:
        what = (
            f"and the request asks for {num_prompt_tokens + max_tokens}: {num_prompt_tokens} of the"
            f" prompt and {max_tokens} to generate"
        )
        raise _too_long(limit, what, param)


def check_request_id(request_id: str) -> None:
    """Raises `InvalidRequest` for a name that is too long or could forge a log line."""
    if not is_request_id(request_id):
        raise InvalidRequest(
            f"request_id must be of at most {MAX_REQUEST_ID_CHARS} ASCII letters, digits and "
            "-_.:/=+@",
            param="request_id",
        )


def is_request_id(text: str) -> bool:
    """Whether something may be named so."""
    return len(text) <= MAX_REQUEST_ID_CHARS and REQUEST_ID_CHARS.issuperset(text)


def check_ids(token_ids: Sequence[int], model: ServedModel, param: str) -> None:
    """Raises `InvalidRequest` for what is no token of the model."""
    # Of an array no item becomes an object.
    ids = np.asarray(token_ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < model.vocab_size):
        raise InvalidRequest(f"{param}: token ids are in [0, {model.vocab_size})", param=param)


def prompt_param(request: GenerationRequest) -> str:
    """The field that the prompts came in."""
    is_chat = any(isinstance(prompt, ChatPrompt) for prompt in request.prompts)
    return "messages" if is_chat else "prompt"


def _too_long(limit: int, what: str, param: str) -> ContextLengthExceeded:
    """In OpenAI's words: clients that shorten their conversations then know it by these, and not by
    the code."""
    return ContextLengthExceeded(
        f"this model's maximum context length is {limit} tokens, {what}", param=param
    )


def _check_urgency(request: GenerationRequest) -> None:
    if abs(request.priority) > MAX_PRIORITY:
        raise InvalidRequest(
            f"priority must be in [-{MAX_PRIORITY}, {MAX_PRIORITY}]", param="priority"
        )
    if request.timeout_s is not None and not isfinite(request.timeout_s):
        raise InvalidRequest("timeout must be finite", param="timeout")


def _check_choices(request: GenerationRequest) -> None:
    num_prompts = len(request.prompts)
    if num_prompts == 0:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    if request.num_choices < 1:
        raise InvalidRequest("n must be at least 1", param="n")
    if num_prompts > MAX_CHOICES:
        raise InvalidRequest(f"prompt must have at most {MAX_CHOICES} entries", param="prompt")
    if num_prompts * request.num_choices > MAX_CHOICES:
        raise InvalidRequest(
            f"at most {MAX_CHOICES} answers to a request: n, times the number of prompts", param="n"
        )
    num_chars = sum(len(each.text) for each in request.prompts if isinstance(each, TextPrompt))
    if num_chars > MAX_PROMPT_CHARS:
        raise InvalidRequest(
            f"prompt must have at most {MAX_PROMPT_CHARS} characters, and has {num_chars}",
            param="prompt",
        )


def _check_messages(messages: Collection[ChatMessage]) -> None:
    if not messages:
        raise InvalidRequest("messages must not be empty", param="messages")
    _at_most(MAX_MESSAGES, messages, "messages", "entries")
    for message in messages:
        _check_message(message)
    num_chars = sum(map(message_chars, messages))
    if num_chars > MAX_PROMPT_CHARS:
        raise InvalidRequest(
            f"messages must have at most {MAX_PROMPT_CHARS} characters, and have {num_chars}",
            param="messages",
        )


def _check_message(message: ChatMessage) -> None:
    if message.role not in ROLES:
        raise InvalidRequest(f"a role must be one of {', '.join(ROLES)}", param="messages")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest("only an assistant's message has tool_calls", param="messages")
    if (message.role == "tool") != bool(message.tool_call_id):
        raise InvalidRequest(
            "a tool's message, and no other, has the tool_call_id that it answers",
            param="messages",
        )
    _at_most(MAX_TOOL_CALLS, message.tool_calls, "messages", "tool_calls each")


def _check_template_kwargs(kwargs: Mapping[str, Any]) -> None:
    param = "chat_template_kwargs"
    _at_most(MAX_TEMPLATE_KWARGS, kwargs, param, "entries")
    if not all(isinstance(value, (str, int, float)) for value in kwargs.values()):
        raise InvalidRequest(f"{param}: the values are booleans, strings and numbers", param=param)
    num_chars = template_kwargs_chars(kwargs)
    if num_chars > MAX_TEMPLATE_KWARGS_CHARS:
        raise InvalidRequest(
            f"{param} must have at most {MAX_TEMPLATE_KWARGS_CHARS} characters, and has "
            f"{num_chars}",
            param=param,
        )


def _check_stops(stops: Collection[str]) -> None:
    _at_most(MAX_STOPS, stops, "stop", "entries")
    for stop in stops:
        _at_most(MAX_STOP_CHARS, stop, "stop", "characters each")
        if not stop:
            raise InvalidRequest("stop must not contain an empty string", param="stop")


def _at_most(limit: int, values: Collection[object], param: str, what: str) -> None:
    if len(values) > limit:
        raise InvalidRequest(
            f"{param} must have at most {limit} {what}, and has {len(values)}", param=param
        )
