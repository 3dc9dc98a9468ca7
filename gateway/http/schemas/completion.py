"""Body of POST /v1/completions."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from gateway.http.schemas.base import TokenIds
from gateway.http.schemas.generation import GenerationBody
from gateway.limits import MAX_CHOICES, check_size
from gateway.request import GenerationRequest, Prompt, TextPrompt, TokenPrompt
from tandem.core.errors import InvalidRequest
from tandem.core.token_ids import token_array

DEFAULT_COMPLETION_TOKENS = 16

Texts = Annotated[list[str], Field(max_length=MAX_CHOICES, fail_fast=True)]
TokenLists = Annotated[list[TokenIds], Field(max_length=MAX_CHOICES, fail_fast=True)]


class CompletionBody(GenerationBody):
    """Body of POST /v1/completions. Each prompt of a list is answered `n` times."""

    prompt: Annotated[str | TokenIds | Texts | TokenLists, Field(union_mode="left_to_right")]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None

    def request(self) -> GenerationRequest:
        """In the protocol-neutral form. Raises `InvalidRequest`."""
        if self.best_of is not None and self.best_of != (1 if self.n is None else self.n):
            raise InvalidRequest("best_of must be n: all answers are returned", param="best_of")
        return GenerationRequest(
            prompts=self._prompts(),
            add_special_tokens=self.add_special_tokens is not False,
            default_max_tokens=DEFAULT_COMPLETION_TOKENS,
            logprobs=self.logprobs,
            echo=bool(self.echo),
            **self.common_fields(),
        )

    def _prompts(self) -> tuple[Prompt, ...]:
        prompt = self.prompt
        if isinstance(prompt, str):
            return (TextPrompt(prompt),)
        if prompt and isinstance(prompt[0], int):
            return (_token_prompt(prompt),)
        lists = (each for each in prompt if isinstance(each, list | array))
        check_size(num_tokens=sum(map(len, lists)))
        return tuple(map(_prompt, prompt))


def _prompt(item: Any) -> Prompt:
    return TextPrompt(item) if isinstance(item, str) else _token_prompt(item)


def _token_prompt(token_ids: Iterable[Any]) -> TokenPrompt:
    try:
        return TokenPrompt(token_array(token_ids))
    except OverflowError:
        raise InvalidRequest("prompt: token ids are in [0, 2^32)", param="prompt") from None
