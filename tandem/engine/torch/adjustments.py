"""What a request's parameters add to logits, or take off them, before the temperature."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.token_counts import TokenCounts, is_penalised
from tandem.engine.torch.uploads import upload


def is_adjusted(params: SamplingParams) -> bool:
    return bool(params.logit_bias) or is_penalised(params)


def adjust(scores: Tensor, params: SamplingParams, counts: TokenCounts | None) -> None:
    """Apply bias, then the penalties for repetition, frequency and presence, to a row of scores
    [vocab_size] in place: in the order of vLLM's sampler. Penalties need the sequence's `counts`.

    Touches only the tokens in question. Ids that are not in the vocabulary have no logit, and no
    effect.
    """
    if params.logit_bias:
        biased, bias = zip(*params.logit_bias, strict=True)
        _add(scores, np.asarray(biased, np.int64), np.asarray(bias, np.float64))
    if not is_penalised(params):
        return
    assert counts is not None, "penalties need counts"
    if params.repetition_penalty != 1.0:
        _weaken(scores, counts.distinct, params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        token_ids, times = counts.generated
        _add(scores, token_ids, -(params.frequency_penalty * times + params.presence_penalty))


def _add(scores: Tensor, token_ids: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    known = _known(scores, token_ids)
    if not known.any():
        return
    indices = upload(torch.from_numpy(token_ids[known]), scores.device)
    scores[indices] += upload(torch.from_numpy(values[known]), scores.device)


def _weaken(scores: Tensor, token_ids: NDArray[np.int64], penalty: float) -> None:
    """Divide what is positive, multiply what is negative."""
    indices = upload(torch.from_numpy(token_ids[_known(scores, token_ids)]), scores.device)
    values = scores[indices]
    scores[indices] = torch.where(values > 0, values / penalty, values * penalty)


def _known(scores: Tensor, token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (token_ids >= 0) & (token_ids < len(scores))
