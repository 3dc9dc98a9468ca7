"""POST /tokenize and /detokenize."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import orjson
from fastapi import APIRouter, Request, Response

from gateway.frontend import Frontend
from gateway.http.body import BodyRoute
from gateway.http.documented_errors import BODY_ERRORS, documented, documented_errors
from gateway.http.formats.logprobs import token_text
from gateway.http.schemas.answers import Detokenized, Tokenized
from gateway.http.schemas.tokenize import DetokenizeBody, TokenizeBody
from gateway.http.unserved import check_extra_fields
from gateway.limits import DEFAULT_MODEL, max_total_tokens
from gateway.tokens import TokenBytes, TokenService


def tokenize_router(frontend: Frontend, service: TokenService) -> APIRouter:
    """What the model's tokenizer makes of a text, and the way back. What is written for so many
    tokens is written on a thread."""
    router = APIRouter(route_class=BodyRoute, responses=documented_errors(*BODY_ERRORS))

    @router.post("/tokenize", response_model=None, responses=documented(Tokenized))
    async def tokenize(request: Request, body: TokenizeBody) -> Response:
        check_extra_fields(body)
        max_model_len = max_total_tokens(service.model) if service.model else 0
        token_bytes = frontend.tokenizer.token_bytes if body.return_token_strs else None
        content = await frontend.tokenize(
            body.read_prompt(),
            partial(tokenized, max_model_len, token_bytes),
            tenant=request.state.tenant,
            model=body.model or DEFAULT_MODEL,
            tools=body.read_tools(),
            add_special_tokens=body.add_special_tokens is not False,
            add_generation_prompt=body.add_generation_prompt is not False,
        )
        return Response(content, media_type="application/json")

    @router.post("/detokenize", response_model=None, responses=documented(Detokenized))
    async def detokenize(request: Request, body: DetokenizeBody) -> Response:
        check_extra_fields(body)
        content = await frontend.detokenize(
            body.tokens,
            detokenized,
            tenant=request.state.tenant,
            model=body.model or DEFAULT_MODEL,
        )
        return Response(content, media_type="application/json")

    return router


def tokenized(
    max_model_len: int, token_bytes: TokenBytes | None, token_ids: Sequence[int]
) -> bytes:
    """The answer of /tokenize; with what each token says if `token_bytes` is given."""
    texts = [token_text(token_bytes(each)) for each in token_ids] if token_bytes else None
    return orjson.dumps(
        {
            "count": len(token_ids),
            "max_model_len": max_model_len,
            "tokens": token_ids,
            "token_strs": texts,
        }
    )


def detokenized(text: str) -> bytes:
    """The answer of /detokenize."""
    return orjson.dumps({"prompt": text})
