"""From what a client asks for to what a worker must know."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.limits import (
    check_max_tokens,
    max_total_tokens,
    scores_prompts,
    wants_no_tokens,
)
from gateway.request import GenerationRequest
from gateway.tokens import ServedModel
from tandem.artifacts.sampling_defaults import SamplingDefaults
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar
from tandem.core.sampling_params import SamplingParams

NUM_SEEDS = 2**63
# vLLM's clients, and llama.cpp's, say that it is not to be the same each time.
ANY_SEED = -1


def with_defaults(request: GenerationRequest, defaults: SamplingDefaults) -> GenerationRequest:
    """The request, with the model's defaults for what it does not say, and no longer answers than
    they have. Raises `InvalidRequest`."""
    given: dict[str, Any] = {
        name: getattr(defaults, name)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        if getattr(request, name) is None
    }
    if defaults.max_tokens is not None:
        if request.min_tokens > defaults.max_tokens:
            raise InvalidRequest(
                f"min_tokens must be at most {defaults.max_tokens}, the max_new_tokens of the"
                " model's generation_config.json",
                param="min_tokens",
            )
        for name in ("max_tokens", "default_max_tokens"):
            wanted = getattr(request, name)
            given[name] = None if wanted is None else min(wanted, defaults.max_tokens)
        given["default_max_tokens"] = given["default_max_tokens"] or defaults.max_tokens
    return replace(request, **given)


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
        prompt_logprobs=request.logprobs if request.echo else None,
        grammar=request.grammar,
    )
    params.validate()
    return params


def settled(
    params: SamplingParams,
    request: GenerationRequest,
    prompt_lengths: Sequence[int],
    model: ServedModel,
    grammar: Grammar | None,
    quota: int | None,
) -> list[SamplingParams]:
    """Each prompt's, with the rest of what is known once they are tokenised. Raises
    `InvalidRequest` for more tokens than fit; the default is never more, and within the `quota` of
    tokens that its tenant may have in flight, if prompts and `min_tokens` leave room in it."""
    share = None if quota is None else _share(request, prompt_lengths, quota)
    settled_params = [
        replace(params, max_tokens=_max_tokens(request, length, model, share), grammar=grammar)
        for length in prompt_lengths
    ]
    # `min_tokens` may be too many for a default; all else was validated before.
    min(settled_params, key=lambda each: each.max_tokens).validate()
    return settled_params


def _seed(seed: int | None) -> int:
    """A worker's seed, which has no sign. OpenAI's and vLLM's have one."""
    if seed is None or seed == ANY_SEED:
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


def _share(request: GenerationRequest, prompt_lengths: Sequence[int], quota: int) -> int:
    """What a quota of tokens leaves for each answer; too much if it leaves nothing, so that the
    request is refused for it."""
    left = quota - request.num_choices * sum(prompt_lengths)
    share = left // (request.num_choices * len(prompt_lengths))
    return max(1, request.min_tokens, share)


def _max_tokens(
    request: GenerationRequest, num_prompt_tokens: int, model: ServedModel, share: int | None
) -> int:
    if wants_no_tokens(request):
        # Of a prompt that is not scored, no worker is told.
        return 0 if scores_prompts(request) else 1
    if request.max_tokens is not None:
        check_max_tokens(num_prompt_tokens, request.max_tokens, model, request.max_tokens_param)
        return request.max_tokens
    room = max_total_tokens(model) - num_prompt_tokens
    limits = (request.default_max_tokens, share, room)
    return min(limit for limit in limits if limit is not None)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
