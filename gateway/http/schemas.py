"""The bodies of requests. Only types are checked here. The caps are in `gateway.limits`, for both
protocols, but a list is read no further than it can be right."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.http.unserved import check_extra_fields
from gateway.limits import DEFAULT_MODEL, MAX_MESSAGES, MAX_PROMPT_TOKENS, MAX_STOPS
from gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from tandem.core.errors import InvalidRequest
from tandem.core.sampling_params import MAX_STOP_TOKEN_IDS

DEFAULT_COMPLETION_TOKENS = 16
MAX_PARTS = 256


class _Body(BaseModel):
    # No coercion: "5" is not 5. What is not declared is kept, to be refused or warned of.
    model_config = ConfigDict(strict=True, extra="allow")


class StreamOptions(_Body):
    """How to stream."""

    include_usage: bool | None = None


class GenerationBody(_Body):
    """What both endpoints take."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stop_token_ids: (
        Annotated[list[int], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None
    ) = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    request_id: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self) -> None:
        """What types do not say. Raises `InvalidRequest`."""
        check_extra_fields(self.model_extra or {})
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options goes with stream", param="stream_options")

    def _request(
        self, prompt: Prompt, max_tokens: int | None, default_max_tokens: int | None = None
    ) -> GenerationRequest:
        self.check()
        return GenerationRequest(
            prompt=prompt,
            model=self.model or DEFAULT_MODEL,
            request_id=self.request_id or "",
            max_tokens=max_tokens,
            default_max_tokens=default_max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            # vLLM's clients say -1 for all.
            top_k=0 if self.top_k == -1 else self.top_k,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
        )


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions."""

    prompt: str | Annotated[list[int], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)]

    def request(self) -> GenerationRequest:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        prompt: Prompt = (
            TextPrompt(self.prompt)
            if isinstance(self.prompt, str)
            else TokenPrompt(tuple(self.prompt))
        )
        return self._request(prompt, self.max_tokens, DEFAULT_COMPLETION_TOKENS)


class TextPart(_Body):
    """A part of a message's content. Only text is served."""

    type: Literal["text"]
    text: str


class MessageBody(_Body):
    """One message of a conversation."""

    role: str
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]

    def message(self) -> ChatMessage:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        if (self.model_extra or {}).get("tool_calls"):
            raise InvalidRequest("tool calls are not supported yet", param="messages")
        content = self.content
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        # OpenAI's newer name for the same thing, which no template of ours knows.
        return ChatMessage("system" if self.role == "developer" else self.role, content)


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Field(max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: int | None = None

    def request(self) -> GenerationRequest:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        messages = tuple(message.message() for message in self.messages)
        max_tokens = self.max_completion_tokens
        return self._request(
            ChatPrompt(messages), self.max_tokens if max_tokens is None else max_tokens
        )
