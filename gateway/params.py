"""From what a client asks for to what a worker must know."""

from __future__ import annotations

import secrets
from dataclasses import replace

from gateway.limits import check_max_tokens, max_total_tokens
from gateway.request import GenerationRequest
from gateway.tokens import ServedModel
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar
from tandem.core.sampling_params import SamplingParams

NUM_SEEDS = 2**63


def sampling_params(request: GenerationRequest) -> SamplingParams:
    """OpenAI's defaults for what was not given; `max_tokens` is settled once the prompt's length is
    known. Raises `InvalidRequest`."""
    params = SamplingParams(
        max_tokens=_provisional_max_tokens(request),
        seed=_seed(request.seed),
        temperature=_or(request.temperature, 1.0),
        top_p=_or(request.top_p, 1.0),
        top_k=request.top_k or 0,
        min_p=_or(request.min_p, 0.0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        logit_bias=tuple(sorted(request.logit_bias)),
        min_tokens=request.min_tokens,
        stop_token_ids=frozenset(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs,
        grammar=request.grammar,
    )
    params.validate()
    return params


def settled(
    params: SamplingParams,
    request: GenerationRequest,
    num_prompt_tokens: int,
    model: ServedModel,
    grammar: Grammar | None,
) -> SamplingParams:
    """With the rest of what is known once a prompt is tokenised. Raises `InvalidRequest` for more
    tokens than fit; the default is never more."""
    params = replace(
        params, max_tokens=_max_tokens(request, num_prompt_tokens, model), grammar=grammar
    )
    # `min_tokens` may be too many for a default.
    params.validate()
    return params


def wants_no_tokens(request: GenerationRequest) -> bool:
    """Whether nothing is to be generated: the prompt is only to be echoed."""
    return request.echo and request.max_tokens == 0


def _seed(seed: int | None) -> int:
    """A worker's seed, which has no sign. OpenAI's and vLLM's have one."""
    if seed is None:
        return secrets.randbelow(NUM_SEEDS)
    if not -NUM_SEEDS <= seed < NUM_SEEDS:
        raise InvalidRequest("seed must be in [-2**63, 2**63)", param="seed")
    return seed % NUM_SEEDS


def _provisional_max_tokens(request: GenerationRequest) -> int:
    if request.max_tokens is None or wants_no_tokens(request):
        return max(1, request.min_tokens)
    if request.max_tokens < 1:
        # Before `SamplingParams.validate`, which does not know what the client calls it.
        param = request.max_tokens_param
        raise InvalidRequest(f"{param} must be at least 1", param=param)
    return request.max_tokens


def _max_tokens(request: GenerationRequest, num_prompt_tokens: int, model: ServedModel) -> int:
    if wants_no_tokens(request):
        return 1
    if request.max_tokens is not None:
        check_max_tokens(num_prompt_tokens, request.max_tokens, model, request.max_tokens_param)
        return request.max_tokens
    room = max_total_tokens(model) - num_prompt_tokens
    return room if request.default_max_tokens is None else min(request.default_max_tokens, room)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
