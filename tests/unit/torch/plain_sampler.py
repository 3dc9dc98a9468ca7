"""Sampling as it is defined, without a thought for speed: what the engine's must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tandem.core.noise import uniform
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.adjustments import adjust
from tandem.engine.torch.sampler import SampleRow


def plain_sample(logits: Tensor, row: SampleRow) -> int:
    """The token of one row of finite logits [vocab_size]."""
    params = row.spec.params
    scores = logits.double()
    adjust(scores, row.spec)
    token_ids = torch.from_numpy(row.allowed.token_ids(len(scores)))
    scores = scores[token_ids]
    if row.is_greedy:
        return int(token_ids[scores.argmax()])
    scores = scores / params.temperature
    kept = plain_candidates(scores, params)
    draws = torch.from_numpy(uniform(row.key, token_ids[kept].numpy()))
    noise = -torch.log(-torch.log(draws))
    return int(token_ids[kept][(scores[kept] + noise).argmax()])


def plain_candidates(scores: Tensor, params: SamplingParams) -> Tensor:
    """The indices, ascending, that min-p, top-k and top-p leave."""
    ranked = scores.sort(descending=True, stable=True).indices
    if params.min_p > 0.0:
        ranked = ranked[scores[ranked] >= scores.max() + math.log(params.min_p)]
    if params.top_k > 0:
        ranked = ranked[: params.top_k]
    if params.top_p < 1.0:
        probabilities = scores[ranked].softmax(dim=0)
        mass_before = probabilities.cumsum(dim=0) - probabilities
        ranked = ranked[: max(1, int((mass_before < params.top_p).sum()))]
    return ranked.sort().values
