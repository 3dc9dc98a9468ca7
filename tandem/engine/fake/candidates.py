"""Which tokens the fake engine chooses from, and how likely it says they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem.core.logprobs import LEAST_LOGPROB, LogprobColumns, TokenLogprobs
from tandem.core.plan import ScoreSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import Allowed

FORBIDDING_BIAS = -100.0

Outputs = tuple[int, int]
"""The half-open range of the tokens that an engine samples from where nothing else is asked."""


def candidates(
    outputs: Outputs, params: SamplingParams, allowed: Allowed, eos_token_ids: frozenset[int]
) -> Sequence[int]:
    """The tokens to choose from, ascending: `outputs` without what `allowed` bars. With a mask
    those of its tokens that are in `outputs` or end the sequence, or all of them if none is. Of
    these, if any are left, those that `logit_bias` does not forbid."""
    forbidden = [token_id for token_id, bias in params.logit_bias if bias <= FORBIDDING_BIAS]
    if allowed.is_all and not forbidden:
        return range(*outputs)
    token_ids = _allowed(outputs, allowed, eos_token_ids)
    left: list[int] = _unless_empty(token_ids, ~np.isin(token_ids, forbidden)).tolist()
    return left


def _allowed(
    outputs: Outputs, allowed: Allowed, eos_token_ids: frozenset[int]
) -> NDArray[np.int64]:
    low, high = outputs
    if allowed.mask is None:
        token_ids = np.arange(low, high)
        return _unless_empty(token_ids, ~np.isin(token_ids, allowed.barred))
    token_ids = allowed.token_ids(len(allowed.mask))
    wanted = (token_ids >= low) & (token_ids < high) | np.isin(token_ids, list(eos_token_ids))
    return _unless_empty(token_ids, wanted)


def _unless_empty(token_ids: NDArray[np.int64], wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    return token_ids[wanted] if wanted.any() else token_ids


def token_logprobs(outputs: Outputs, token_id: int, num_top: int) -> TokenLogprobs:
    """All of `outputs` are equally likely, so the likeliest are the lowest of them; nothing else
    is likely at all."""
    low, high = outputs
    each = -math.log(high - low)
    top_ids = range(low, min(high, low + num_top))
    own = each if low <= token_id < high else LEAST_LOGPROB
    return TokenLogprobs.of(own, top_ids, [each] * len(top_ids))


def prompt_logprobs(outputs: Outputs, score: ScoreSpec) -> LogprobColumns:
    """Likewise of tokens that are there already."""
    columns = LogprobColumns()
    for token_id in score.targets:
        each = token_logprobs(outputs, token_id, score.num_top)
        columns.logprobs.append(each.logprob)
        columns.top_ids.extend(each.top_ids)
        columns.top_logprobs.extend(each.top_logprobs)
    return columns
