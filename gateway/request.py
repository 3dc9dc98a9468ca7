"""What a client asks for, whatever protocol it came by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text, tokenised as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt that is tokenised already."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, oldest message first, rendered with the model's chat template."""

    messages: tuple[ChatMessage, ...]


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A prompt and how to go on from it, unchecked. None takes the default.

    `max_tokens` defaults to `default_max_tokens` or what fits the model, whichever is less.
    `request_id` is made up if empty. `seed` is drawn if None.
    """

    prompt: Prompt
    model: str = "default"
    request_id: str = ""
    max_tokens: int | None = None
    default_max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
