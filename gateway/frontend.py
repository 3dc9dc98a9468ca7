"""Where a request enters, by HTTP or gRPC.

The way of a request through the files: `http/routes.py` or `grpc_inference.py` read it into a
`GenerationRequest` (`request.py`), which is protocol-neutral. `Frontend.generate` checks it
(`limits.py`), tokenises it and submits it to the dispatcher (`tokens.py`), whose tokens an
`Answer` (`answer.py`) turns into text (`text.py`). The protocol writes its events out.
"""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

from gateway.answer import Answer
from gateway.limits import (
    check_max_tokens,
    check_model_name,
    check_prompt_length,
    check_request,
    max_total_tokens,
    prompt_param,
)
from gateway.request import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from gateway.text import TokenText
from gateway.tokens import ServedModel, TokenRequest, TokenService
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import InvalidRequest, Unavailable
from tandem.core.sampling_params import SamplingParams

NUM_TOKENIZER_THREADS = 2
SEED_BITS = 63


class Frontend:
    """Takes requests of either protocol to the dispatcher. Lives on the dispatcher's event loop."""

    def __init__(self, service: TokenService, tokenizer: Tokenizer) -> None:
        self._service = service
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(NUM_TOKENIZER_THREADS, thread_name_prefix="tokenize")
        self._active: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def close(self) -> None:
        """Let go of the threads. Generations under way go on."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def idle(self, timeout_s: float) -> None:
        """Wait until no answer is open, but no longer than `timeout_s`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    async def generate(self, request: GenerationRequest) -> Answer:
        """Check, tokenise and submit a request.

        Raises `InvalidRequest`, `NotFound` (the model) or what `TokenService.submit` raises. If it
        is cancelled, nothing was submitted.
        """
        model = self._require_model()
        check_model_name(request.model, model)
        check_request(request, model)
        params = _sampling_params(request)
        token_ids = await self._tokenize(request.prompt)
        check_prompt_length(len(token_ids), model, prompt_param(request))
        params = replace(params, max_tokens=_max_tokens(request, len(token_ids), model))
        # No await from here on: a submitted request is owned by the Answer that is returned.
        return self._submit(request, token_ids, params, model)

    def _require_model(self) -> ServedModel:
        if self._service.model is None:
            raise Unavailable("no model is served yet", retry_after_s=1.0)
        return self._service.model

    async def _tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TokenPrompt):
            return prompt.token_ids
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(_encode, self._tokenizer, prompt))

    def _submit(
        self,
        request: GenerationRequest,
        token_ids: tuple[int, ...],
        params: SamplingParams,
        model: ServedModel,
    ) -> Answer:
        request_id = request.request_id or secrets.token_hex(16)
        if request_id in self._active:
            # It names the request's tokens: two must not share it.
            raise InvalidRequest("a request with this request_id is running", param="request_id")
        tokens = self._service.submit(TokenRequest(request_id, token_ids, params))
        self._active.add(request_id)
        self._idle.clear()
        return Answer(
            request_id=request_id,
            model=model.name,
            num_prompt_tokens=len(token_ids),
            tokens=tokens,
            text=TokenText(self._tokenizer.decode_stream(), request.stop),
            on_close=partial(self._closed, request_id),
        )

    def _closed(self, request_id: str) -> None:
        self._active.discard(request_id)
        if not self._active:
            self._idle.set()


def _encode(tokenizer: Tokenizer, prompt: TextPrompt | ChatPrompt) -> tuple[int, ...]:
    match prompt:
        case TextPrompt(text):
            return tuple(tokenizer.encode(text, add_special_tokens=True))
        case ChatPrompt(messages):
            rendered = tokenizer.apply_chat_template([asdict(message) for message in messages])
            return tuple(tokenizer.encode(rendered))


def _sampling_params(request: GenerationRequest) -> SamplingParams:
    """OpenAI's defaults for what was not given; `max_tokens` is settled once the prompt's length is
    known. Raises `InvalidRequest`."""
    params = SamplingParams(
        max_tokens=1 if request.max_tokens is None else request.max_tokens,
        seed=secrets.randbits(SEED_BITS) if request.seed is None else request.seed,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k or 0,
        stop_token_ids=frozenset(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
    )
    params.validate()
    return params


def _max_tokens(request: GenerationRequest, num_prompt_tokens: int, model: ServedModel) -> int:
    """Raises `InvalidRequest` for more than fits; the default is never more."""
    room = max_total_tokens(model) - num_prompt_tokens
    if request.max_tokens is not None:
        check_max_tokens(num_prompt_tokens, request.max_tokens, model)
        return request.max_tokens
    return room if request.default_max_tokens is None else min(request.default_max_tokens, room)
