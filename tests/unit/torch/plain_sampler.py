"""Sampling as it is defined, without a thought for speed: what the engine's must equal."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tandem.core.noise import uniform
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.sampler import SampleRow


def plain_sample(logits: Tensor, row: SampleRow) -> int:
    """The token of one row of finite logits [vocab_size]."""
    params = row.spec.params
    scores = logits.double()
    plain_adjust(scores, row.spec)
    token_ids = torch.from_numpy(row.allowed.token_ids(len(scores)))
    scores = scores[token_ids]
    if row.is_greedy:
        return int(token_ids[scores.argmax()])
    scores = scores / params.temperature
    kept = plain_candidates(scores, params)
    draws = torch.from_numpy(uniform(row.key, token_ids[kept].numpy()))
    noise = -torch.log(-torch.log(draws))
    return int(token_ids[kept][(scores[kept] + noise).argmax()])


def plain_adjust(scores: Tensor, spec: SampleSpec) -> None:
    """Bias and penalties, to scores [vocab_size] in place."""
    params, size = spec.params, len(scores)
    for token_id, bias in params.logit_bias:
        if token_id < size:
            scores[token_id] += bias
    for token_id in {*spec.prompt_token_ids, *spec.token_ids}:
        if params.repetition_penalty != 1.0 and 0 <= token_id < size:
            value, penalty = scores[token_id], params.repetition_penalty
            scores[token_id] = value / penalty if value > 0 else value * penalty
    for token_id, count in zip(*np.unique(spec.token_ids, return_counts=True), strict=True):
        if 0 <= token_id < size:
            scores[int(token_id)] -= (
                params.frequency_penalty * float(count) + params.presence_penalty
            )


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
