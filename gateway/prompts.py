"""Prompts to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from gateway.prefix_index import PromptPrefix
from gateway.request import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from gateway.tools.prompt import template_messages
from gateway.tools.syntax import ToolFormat
from gateway.tools.tool import ToolUse
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.token_ids import token_array


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt's tokens. `text` is what an echo of it says, if that is asked for; `prefix` names
    its blocks, once they are hashed."""

    token_ids: Sequence[int]
    text: str = ""
    prefix: PromptPrefix | None = None


def encode_prompts(
    request: GenerationRequest, tokenizer: Tokenizer, form: ToolFormat
) -> list[EncodedPrompt]:
    """Raises `InvalidRequest` for what cannot be tokenised. Takes long for long prompts."""
    encode = partial(
        encode_prompt,
        tokenizer=tokenizer,
        form=form,
        tools=request.tools,
        add_special_tokens=request.add_special_tokens,
    )
    return [
        EncodedPrompt(token_array(encode(prompt)), _text(prompt, tokenizer) if request.echo else "")
        for prompt in request.prompts
    ]


def hash_prompts(
    prompts: Sequence[EncodedPrompt], block_size: int, salt: bytes
) -> list[EncodedPrompt]:
    """The prompts with the names of their blocks, which share KV with those of the same `salt`.
    Takes long for long prompts."""
    hashed = []
    for each in prompts:
        prefix = PromptPrefix(each.token_ids, block_size, salt)
        prefix.digests()
        hashed.append(replace(each, prefix=prefix))
    return hashed


def encode_prompt(
    prompt: Prompt,
    tokenizer: Tokenizer,
    form: ToolFormat,
    tools: ToolUse | None = None,
    *,
    add_special_tokens: bool = True,
    add_generation_prompt: bool = True,
) -> Sequence[int]:
    """Token ids. `add_special_tokens` is for plain text: a chat template writes its own."""
    match prompt:
        case TokenPrompt(token_ids):
            return token_ids
        case TextPrompt(text):
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)
        case ChatPrompt(messages, template_kwargs):
            for_template, listed = template_messages(messages, tools, form)
            rendered = tokenizer.apply_chat_template(
                for_template, add_generation_prompt, listed, template_kwargs
            )
            return tokenizer.encode(rendered)


def needs_work(request: GenerationRequest) -> bool:
    """Whether anything must be tokenised or decoded."""
    return request.echo or any(not isinstance(each, TokenPrompt) for each in request.prompts)


def _text(prompt: Prompt, tokenizer: Tokenizer) -> str:
    match prompt:
        case TextPrompt(text):
            return text
        case TokenPrompt(token_ids):
            return tokenizer.decode(token_ids)
        case ChatPrompt(messages):
            return messages[-1].content
