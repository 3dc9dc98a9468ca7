"""Log-probabilities, in the two endpoints' forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from gateway.choice import ScoredToken
from gateway.tokens import TokenBytes
from tandem.core.logprobs import LEAST_LOGPROB, TokenLogprobs

Pieces = tuple[bytes, ...]
"""A part of each of the lists that `logprobs` is made of, as JSON without brackets. An answer's are
thousands of entries: who writes them as their tokens come holds nobody up with the whole."""

NULL = (b"null",)
"""The value of `logprobs` where none were asked for."""


def chat_pieces(scored: Sequence[ScoredToken], token_bytes: TokenBytes) -> Pieces:
    """Of the `logprobs` of /v1/chat/completions."""
    content = [
        {
            **_entry(each.token_id, each.logprobs.logprob, token_bytes),
            "top_logprobs": [
                _entry(token_id, logprob, token_bytes) for token_id, logprob in each.logprobs.top
            ],
        }
        for each in scored
        if each.logprobs
    ]
    return (_entries(content),)


def chat_logprobs(pieces: Iterable[Pieces]) -> Iterator[bytes]:
    """All of them."""
    yield b'{"content":['
    yield from _separated(content for (content,) in pieces)
    yield b'],"refusal":null}'


def completion_pieces(scored: Sequence[ScoredToken], token_bytes: TokenBytes) -> Pieces:
    """Of the `logprobs` of /v1/completions. A prompt's first token has none, as in OpenAI's."""
    logprobs = [_finite(each.logprobs.logprob) if each.logprobs else None for each in scored]
    top = [
        _top(each.token_id, each.logprobs, token_bytes) if each.logprobs else None
        for each in scored
    ]
    return (
        _entries([token_text(token_bytes(each.token_id)) for each in scored]),
        _entries(logprobs),
        _entries(top),
        _entries([each.text_offset for each in scored]),
    )


def completion_logprobs(pieces: Sequence[Pieces]) -> Iterator[bytes]:
    """All of them."""
    names = (b'{"tokens":[', b'],"token_logprobs":[', b'],"top_logprobs":[', b'],"text_offset":[')
    for index, name in enumerate(names):
        yield name
        yield from _separated(each[index] for each in pieces)
    yield b"]}"


def _entries(values: list[Any]) -> bytes:
    return orjson.dumps(values)[1:-1]


def _separated(entries: Iterable[bytes]) -> Iterator[bytes]:
    """These, with commas between them."""
    comma = b""
    for each in entries:
        yield comma
        yield each
        comma = b","


def token_text(token: bytes) -> str:
    """What a token says by itself, half a character as U+FFFD."""
    return token.decode("utf-8", errors="replace")


def _entry(token_id: int, logprob: float, token_bytes: TokenBytes) -> dict[str, object]:
    token = token_bytes(token_id)
    return {"token": token_text(token), "logprob": _finite(logprob), "bytes": list(token)}


def _top(token_id: int, logprobs: TokenLogprobs, token_bytes: TokenBytes) -> dict[str, float]:
    """The likeliest tokens, and the token itself if it is not among them. Of several that read
    alike the likeliest counts."""
    top: dict[str, float] = {}
    for each, logprob in (*logprobs.top, (token_id, logprobs.logprob)):
        top.setdefault(token_text(token_bytes(each)), _finite(logprob))
    return top


def _finite(logprob: float) -> float:
    # JSON has no infinity.
    return max(logprob, LEAST_LOGPROB)
