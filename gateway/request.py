"""What a client asks for, whatever protocol it came by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.tenants import DEFAULT_TENANT
from gateway.tools.tool import ToolCall, ToolUse
from tandem.core.grammar import Grammar


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text, tokenised as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt that is tokenised already."""

    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. An assistant's may have made calls; a tool's answers the one
    with this id."""

    role: str
    content: str
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, oldest message first, rendered with the model's chat template, which has
    `template_kwargs` as variables: texts, numbers and booleans."""

    messages: tuple[ChatMessage, ...]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """Prompts and how to go on from each, unchecked. None takes the default.

    Each prompt is answered `num_choices` times: choice `i` of prompt `p` has the index
    `p * num_choices + i`. `add_special_tokens` is for plain text: a chat template writes its own.
    `max_tokens`, which came in the field `max_tokens_param`, defaults to the least of
    `default_max_tokens`, what fits the model and what the tenant's quota has for each answer.
    `request_id` names the request, and no other that is running; if it is empty it is made from
    `trace_id`, which several may share, or made up. `seed` is drawn if None. `cache_salt` narrows
    with whom cached KV is shared: with those that have the same. `grammar` is what an answer must
    look like, and came in the field `grammar_param`; `tools` are what may be called. With `echo` an
    answer begins with its prompt's text. A lower `priority` goes first; what has not ended within
    `timeout_s` is ended. `traceparent` and `tracestate` are W3C's, as they came: the trace that it
    is part of.
    """

    prompts: tuple[Prompt, ...]
    model: str = "default"
    request_id: str = ""
    trace_id: str = ""
    tenant: str = DEFAULT_TENANT
    priority: int = 0
    timeout_s: float | None = None
    num_choices: int = 1
    add_special_tokens: bool = True
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    default_max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    echo: bool = False
    cache_salt: str = ""
    grammar: Grammar | None = None
    grammar_param: str = "response_format"
    tools: ToolUse | None = None
    traceparent: str = ""
    tracestate: str = ""
