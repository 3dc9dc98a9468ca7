"""Bodies of POST /tokenize and /detokenize, vLLM's."""

from __future__ import annotations

from typing import Any

from gateway.http.schemas.base import Body, TokenIds
from gateway.http.schemas.chat import Messages, Tools, read_messages
from gateway.http.schemas.tools import read_tools
from gateway.request import Prompt, TextPrompt
from gateway.tools.tool import ToolUse
from tandem.core.errors import InvalidRequest


class TokenizeBody(Body):
    """A plain text or a conversation. `add_special_tokens` is for the former: a chat template
    writes its own."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    def read_prompt(self) -> Prompt:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        if self.prompt is not None and self.messages is None:
            if self.chat_template_kwargs:
                raise InvalidRequest(
                    "chat_template_kwargs go with messages", param="chat_template_kwargs"
                )
            return TextPrompt(self.prompt)
        if self.messages is not None and self.prompt is None:
            return read_messages(self.messages, self.tools, self.chat_template_kwargs)
        raise InvalidRequest("exactly one of prompt and messages is needed", param="prompt")

    def read_tools(self) -> ToolUse | None:
        """The tools that the prompt tells of. Raises `InvalidRequest`."""
        if self.tools and self.messages is None:
            raise InvalidRequest("tools go with messages", param="tools")
        return read_tools(self.tools, None, parallel=True)


class DetokenizeBody(Body):
    """Tokens."""

    model: str | None = None
    tokens: TokenIds
