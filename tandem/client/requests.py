"""What is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack

from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2


class Message(TypedDict):
    """One message of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


class GenerateArguments(TypedDict, total=False):
    """Exactly one of `prompt`, `token_ids` and `messages`, and how to go on from it.

    What is absent takes the server's default: temperature 1, all tokens as candidates, a random
    seed, as many tokens as fit. `temperature` 0 is greedy. `stop` strings are not in the answer.
    """

    prompt: str
    token_ids: Sequence[int]
    messages: Sequence[Message]
    model: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    request_id: str


def build_request(**arguments: Unpack[GenerateArguments]) -> inference_pb2.GenerateRequest:
    """The message. Raises `InvalidRequest` for what cannot be said in it."""
    fields = dict(arguments)
    prompts = [name for name in ("prompt", "token_ids", "messages") if name in fields]
    if len(prompts) != 1:
        raise InvalidRequest("exactly one of prompt, token_ids and messages is needed")
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    prompt = fields.pop(prompts[0])
    try:
        return inference_pb2.GenerateRequest(**_prompt_field(prompts[0], prompt), **fields)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        # protobuf names the field and the type that it wants.
        raise InvalidRequest(f"the request cannot be encoded: {error}") from error


def _prompt_field(name: str, value: object) -> dict[str, object]:
    match name:
        case "prompt":
            return {"text": value}
        case "token_ids":
            return {"token_ids": {"ids": value}}
        case _:
            return {"chat": {"messages": value}}
