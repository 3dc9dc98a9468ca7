"""What a request's parameters add to logits, or take off them, before the temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams


def is_adjusted(params: SamplingParams) -> bool:
    return bool(
        params.logit_bias
        or params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
    )


def adjust(scores: Tensor, spec: SampleSpec) -> None:
    """Apply bias, then the penalties for repetition, frequency and presence, to a row of scores
    [vocab_size] in place: in the order of vLLM's sampler.

    Touches only the tokens in question. Ids that are not in the vocabulary have no logit, and no
    effect.
    """
    params = spec.params
    if params.logit_bias:
        biased, bias = zip(*params.logit_bias, strict=True)
        _add(scores, _array(biased), np.asarray(bias, np.float64))
    if params.repetition_penalty != 1.0:
        _weaken(scores, [spec.prompt_token_ids, spec.token_ids], params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        token_ids, counts = np.unique(_array(spec.token_ids), return_counts=True)
        penalties = params.frequency_penalty * counts.astype(np.float64) + params.presence_penalty
        _add(scores, token_ids, -penalties)


def _add(scores: Tensor, token_ids: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    known = _known(scores, token_ids)
    indices = torch.from_numpy(token_ids[known]).to(scores.device, non_blocking=True)
    scores[indices] += torch.from_numpy(values[known]).to(scores, non_blocking=True)


def _weaken(scores: Tensor, texts: Sequence[Sequence[int]], penalty: float) -> None:
    """Divide what is positive, multiply what is negative. A token that comes twice is written
    twice, the same both times."""
    token_ids = np.concatenate([_array(each) for each in texts])
    indices = torch.from_numpy(token_ids[_known(scores, token_ids)])
    indices = indices.to(scores.device, non_blocking=True)
    values = scores[indices]
    scores[indices] = torch.where(values > 0, values / penalty, values * penalty)


def _known(scores: Tensor, token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (token_ids >= 0) & (token_ids < len(scores))


def _array(token_ids: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(token_ids, np.int64)
