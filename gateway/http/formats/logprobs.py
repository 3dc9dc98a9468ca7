"""Log-probabilities, in the two endpoints' forms."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gateway.choice import ScoredToken
from gateway.tokens import TokenBytes
from tandem.core.logprobs import LEAST_LOGPROB


def chat_logprobs(scored: Sequence[ScoredToken], token_bytes: TokenBytes) -> bytes:
    """`logprobs` of /v1/chat/completions; null if none were asked for."""
    if not scored:
        return b"null"
    content = [
        {
            **_entry(each.token_id, each.logprobs.logprob, token_bytes),
            "top_logprobs": [
                _entry(token_id, logprob, token_bytes) for token_id, logprob in each.logprobs.top
            ],
        }
        for each in scored
    ]
    return orjson.dumps({"content": content, "refusal": None})


def completion_logprobs(scored: Sequence[ScoredToken], token_bytes: TokenBytes) -> bytes:
    """`logprobs` of /v1/completions; null if none were asked for."""
    if not scored:
        return b"null"
    return orjson.dumps(
        {
            "tokens": [token_text(token_bytes(each.token_id)) for each in scored],
            "token_logprobs": [_finite(each.logprobs.logprob) for each in scored],
            "top_logprobs": [_top(each, token_bytes) for each in scored],
            "text_offset": [each.text_offset for each in scored],
        }
    )


def token_text(token: bytes) -> str:
    """What a token says by itself, half a character as U+FFFD."""
    return token.decode("utf-8", errors="replace")


def _entry(token_id: int, logprob: float, token_bytes: TokenBytes) -> dict[str, object]:
    token = token_bytes(token_id)
    return {"token": token_text(token), "logprob": _finite(logprob), "bytes": list(token)}


def _top(scored: ScoredToken, token_bytes: TokenBytes) -> dict[str, float]:
    """The likeliest tokens, and the sampled one if it is not among them. Of several that read alike
    the likeliest counts."""
    top: dict[str, float] = {}
    for token_id, logprob in (*scored.logprobs.top, (scored.token_id, scored.logprobs.logprob)):
        top.setdefault(token_text(token_bytes(token_id)), _finite(logprob))
    return top


def _finite(logprob: float) -> float:
    # JSON has no infinity.
    return max(logprob, LEAST_LOGPROB)
