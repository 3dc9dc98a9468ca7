"""Body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.http.schemas.base import Body
from gateway.http.schemas.generation import GenerationBody
from gateway.http.schemas.tools import NamedChoice, ToolBody, ToolCallBody, ToolChoice, read_tools
from gateway.limits import MAX_MESSAGES, MAX_TOOL_CALLS, check_size
from gateway.request import ChatMessage, ChatPrompt, GenerationRequest
from gateway.tools.limits import MAX_TOOLS
from tandem.core.errors import InvalidRequest
from tandem.core.sampling_params import MAX_LOGPROBS

MAX_PARTS = 256

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextPart(Body):
    """A part of a message's content. Only text is served."""

    type: Literal["text"]
    text: str


class MessageBody(Body):
    """One message of a conversation. Of an assistant's the content may be missing; what it said
    instead is its `refusal`, if it did."""

    role: str
    content: str | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = (
        None
    )
    name: str | None = None
    tool_calls: (
        Annotated[list[ToolCallBody], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None
    ) = None
    tool_call_id: str | None = None
    refusal: str | None = None

    def message(self) -> ChatMessage:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        return ChatMessage(
            role=self.role,
            content=self._text(),
            name=self.name or "",
            tool_calls=tuple(call.call() for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id or "",
        )

    def _text(self) -> str:
        if self.content is None:
            if self.role != "assistant":
                raise InvalidRequest("a message must have content", param="messages")
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


Messages = Annotated[list[MessageBody], Field(max_length=MAX_MESSAGES, fail_fast=True)]
Tools = Annotated[list[ToolBody], Field(max_length=MAX_TOOLS, fail_fast=True)]


def read_messages(
    messages: Messages, tools: Tools | None, template_kwargs: dict[str, Any] | None
) -> ChatPrompt:
    """A conversation in the protocol-neutral form, with `tools` beside it. Raises
    `InvalidRequest`."""
    num_calls = sum(len(message.tool_calls or ()) for message in messages)
    check_size(num_parts=len(messages) + num_calls + len(tools or ()))
    return ChatPrompt(tuple(message.message() for message in messages), template_kwargs or {})


class ChatBody(GenerationBody):
    """Body of POST /v1/chat/completions. `chat_template_kwargs` are vLLM's, and so is what
    `reasoning_effort` means: a template's variable of that name, and whether to think."""

    messages: Messages
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: ReasoningEffort | None = None

    @property
    def names_its_call(self) -> bool:
        """Whether the answer is a call of a tool that the request names."""
        return isinstance(self.tool_choice, NamedChoice)

    def request(self) -> GenerationRequest:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        prompt = read_messages(self.messages, self.tools, self._template_kwargs())
        parallel = self.parallel_tool_calls is not False
        return GenerationRequest(
            prompts=(prompt,),
            logprobs=self._num_logprobs(),
            tools=read_tools(self.tools, self.tool_choice, parallel),
            **self.common_fields(),
        )

    def _template_kwargs(self) -> dict[str, Any] | None:
        kwargs, effort = self.chat_template_kwargs, self.reasoning_effort
        if effort is None:
            return kwargs
        return {"enable_thinking": effort != "none", **(kwargs or {}), "reasoning_effort": effort}

    def _num_logprobs(self) -> int | None:
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs must be in [0, {MAX_LOGPROBS}]", param="top_logprobs"
            )
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise InvalidRequest("top_logprobs goes with logprobs", param="top_logprobs")
        return None
