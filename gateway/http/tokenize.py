"""POST /tokenize and /detokenize."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.frontend import Frontend
from gateway.http.body import JsonRoute
from gateway.http.formats.logprobs import token_text
from gateway.http.schemas.tokenize import DetokenizeBody, TokenizeBody
from gateway.http.unserved import check_extra_fields
from gateway.limits import DEFAULT_MODEL, max_total_tokens
from gateway.tokens import TokenService

Json = dict[str, object]


def tokenize_router(frontend: Frontend, service: TokenService) -> APIRouter:
    """What the model's tokenizer makes of a text, and the way back."""
    router = APIRouter(route_class=JsonRoute)
    token_bytes = frontend.tokenizer.token_bytes

    @router.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Json:
        check_extra_fields(body.model_extra or {})
        token_ids = await frontend.tokenize(
            body.read_prompt(),
            model=body.model or DEFAULT_MODEL,
            tools=body.read_tools(),
            add_special_tokens=body.add_special_tokens is not False,
            add_generation_prompt=body.add_generation_prompt is not False,
        )
        texts = [token_text(token_bytes(token_id)) for token_id in token_ids]
        return {
            "count": len(token_ids),
            "max_model_len": max_total_tokens(service.model) if service.model else 0,
            "tokens": token_ids,
            "token_strs": texts if body.return_token_strs else None,
        }

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Json:
        check_extra_fields(body.model_extra or {})
        return {"prompt": await frontend.detokenize(body.tokens, body.model or DEFAULT_MODEL)}

    return router
