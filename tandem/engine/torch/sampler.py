"""Sampling: a pure function of logits, parameters, choice, position, own tokens and grammar.

A row's token depends on nothing else, the other rows included, so any worker can sample any token
of any request again. The order is vLLM's: bias and penalties (`adjustments`), what grammar and
`min_tokens` allow, temperature, min-p, top-k, top-p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.core.noise import position_key
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import ALL, Allowed
from tandem.engine.torch.adjustments import adjust, is_adjusted
from tandem.engine.torch.noise import gumbel
from tandem.engine.torch.ranking import highest, ranked

# Below it, dividing by the temperature could overflow, and the noise could no longer show anyway.
LEAST_TEMPERATURE = 1e-6


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What a row of logits is asked for: the token at `position`, among those `allowed`."""

    spec: SampleSpec
    position: int
    allowed: Allowed = ALL

    @property
    def is_greedy(self) -> bool:
        return self.spec.params.temperature < LEAST_TEMPERATURE

    @property
    def takes_likeliest(self) -> bool:
        """Whether its token is the likeliest of all by the logits as they are."""
        return self.is_greedy and self.allowed.is_all and not is_adjusted(self.spec.params)


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The tokens, int64 [rows], given float32 `logits` [rows, vocab_size].

    Temperature 0 takes the likeliest token; else the Gumbel-max trick draws. Ties go to the lowest
    id. Every row gets an allowed token, even one of NaN: a step serves many requests and does not
    fail for one.
    """
    tokens = logits.argmax(dim=-1)
    for index, row in enumerate(rows):
        if not row.takes_likeliest:
            tokens[index] = _sample_row(logits[index], row)
    return tokens


def _sample_row(logits: Tensor, row: SampleRow) -> Tensor:
    params = row.spec.params
    scores = logits.double()
    if is_adjusted(params):
        adjust(scores, row.spec)
    token_ids = _token_ids(scores, row)
    if not row.allowed.is_all:
        scores = scores[token_ids]
    if row.is_greedy:
        return token_ids[scores.argmax()]
    scores = scores / params.temperature
    kept = candidates(scores, params)
    key = position_key(params.seed, row.spec.choice_index, row.position)
    return token_ids[kept][(scores[kept] + gumbel(key, token_ids[kept])).argmax()]


def _token_ids(scores: Tensor, row: SampleRow) -> Tensor:
    if row.allowed.is_all:
        return torch.arange(len(scores), device=scores.device)
    return torch.from_numpy(row.allowed.token_ids(len(scores))).to(scores.device)


def candidates(scores: Tensor, params: SamplingParams) -> Tensor:
    """The indices, ascending, that min-p, top-k and top-p leave of `scores`.

    On a GPU a filter waits for the device: the number of candidates is needed here.
    """
    if params.min_p > 0.0:
        least = scores.max() + math.log(params.min_p)
        likely = (~(scores < least)).nonzero().squeeze(1)
        return likely[_top(scores[likely], params)]
    return _top(scores, params)


def _top(scores: Tensor, params: SamplingParams) -> Tensor:
    """The indices, ascending, of what top-k leaves, and of that, renormalised, top-p."""
    if 0 < params.top_k < len(scores):
        token_ids = highest(scores, params.top_k)
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


def _likely(scores: Tensor, top_p: float) -> Tensor:
    """Ids that hold the nucleus, from the highest score down: a few, instead of a vocabulary to
    sort. Tokens less likely than (1 - top_p) / vocab_size have less than 1 - top_p together; half
    of it, for rounding."""
    return ranked(scores, ~(scores.softmax(dim=0) < (1.0 - top_p) / (2 * len(scores))))
