"""Sampling: a pure function of logits, parameters, choice and position.

A row's token depends on nothing else, the other rows included, so any worker can sample any token
of any request again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.core.noise import position_key
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.noise import gumbel

# Below it, dividing by the temperature could overflow, and the noise could no longer show anyway.
LEAST_TEMPERATURE = 1e-6


def sample(logits: Tensor, specs: Sequence[SampleSpec], positions: Sequence[int]) -> Tensor:
    """The tokens, int64 [rows], for `positions` given float32 `logits` [rows, vocab_size].

    Temperature 0 takes the likeliest token. Else temperature, top-k and top-p apply in this order
    and the Gumbel-max trick draws from what they leave. Ties go to the lowest id. Every row gets a
    token, even one of NaN: a step serves many requests and does not fail for one.
    """
    tokens = logits.argmax(dim=-1)
    for row, (spec, position) in enumerate(zip(specs, positions, strict=True)):
        if spec.params.temperature >= LEAST_TEMPERATURE:
            key = position_key(spec.params.seed, spec.choice_index, position)
            tokens[row] = _draw(logits[row], spec.params, key)
    return tokens


def _draw(logits: Tensor, params: SamplingParams, key: int) -> Tensor:
    scores = logits.double() / params.temperature
    token_ids = candidates(scores, params)
    return token_ids[(scores[token_ids] + gumbel(key, token_ids)).argmax()]


def candidates(scores: Tensor, params: SamplingParams) -> Tensor:
    """The token ids, ascending, that top-k and top-p leave of `scores` [vocab_size].

    On a GPU a filter waits for the device: the number of candidates is needed here.
    """
    if 0 < params.top_k < len(scores):
        token_ids = _top_k(scores, params.top_k)
        log_mass = scores[token_ids].logsumexp(dim=0)
    elif params.top_p < 1.0:
        token_ids = _likely(scores, params.top_p)
        log_mass = scores.logsumexp(dim=0)
    else:
        return torch.arange(len(scores), device=scores.device)
    probabilities = (scores[token_ids] - log_mass).exp()
    mass_before = probabilities.cumsum(dim=0) - probabilities
    num_kept = max(1, int((mass_before < params.top_p).sum()))
    return token_ids[:num_kept].sort().values


def _top_k(scores: Tensor, top_k: int) -> Tensor:
    """The ids of the highest scores, from the highest down; of equals the lowest ids."""
    least = scores.topk(top_k).values[-1]
    return _ranked(scores, ~(scores < least))[:top_k]


def _likely(scores: Tensor, top_p: float) -> Tensor:
    """Ids that hold the nucleus, from the highest score down: a few, instead of a vocabulary to
    sort. Tokens less likely than (1 - top_p) / vocab_size have less than 1 - top_p together; half
    of it, for rounding."""
    return _ranked(scores, ~(scores.softmax(dim=0) < (1.0 - top_p) / (2 * len(scores))))


def _ranked(scores: Tensor, chosen: Tensor) -> Tensor:
    """The ids that the mask `chosen` leaves (it is made by `~(a < b)`, so that NaN leaves all)."""
    token_ids = chosen.nonzero().squeeze(1)
    return token_ids[scores[token_ids].sort(descending=True, stable=True).indices]
