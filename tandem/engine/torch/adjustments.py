"""What a request's parameters add to logits, or take off them, before the temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.token_counts import TokenCounts, is_penalised
from tandem.engine.torch.uploads import upload


def is_adjusted(params: SamplingParams) -> bool:
    return bool(params.logit_bias) or is_penalised(params)


Adjusted = Sequence[tuple[SamplingParams, TokenCounts | None]]
"""What is asked of each row of scores, and what its penalties count."""


def adjust(scores: Tensor, rows: Adjusted) -> None:
    """Apply bias, then the penalties for repetition, frequency and presence, to scores
    [rows, vocab_size] in place: in the order of vLLM's sampler. Penalties need the sequences'
    `counts`.

    Touches only the tokens in question, of all rows at once. Ids that are not in the vocabulary
    have no logit, and no effect.
    """
    biased, repeated, frequent = (TokenValues(scores) for _ in range(3))
    for row, (params, counts) in enumerate(rows):
        if params.logit_bias:
            ids, bias = zip(*params.logit_bias, strict=True)
            biased.add(row, np.asarray(ids, np.int64), np.asarray(bias, np.float64))
        if not is_penalised(params):
            continue
        assert counts is not None, "penalties need counts"
        if params.repetition_penalty != 1.0:
            token_ids = counts.distinct
            repeated.add(row, token_ids, np.full(len(token_ids), params.repetition_penalty))
        if params.presence_penalty or params.frequency_penalty:
            token_ids, times = counts.generated
            penalties = params.frequency_penalty * times + params.presence_penalty
            frequent.add(row, token_ids, -penalties)
    biased.apply(torch.add)
    repeated.apply(_weakened)
    frequent.apply(torch.add)


class TokenValues:
    """A value for each of some tokens of some rows of `scores` [rows, vocab_size]."""

    def __init__(self, scores: Tensor) -> None:
        self._scores = scores
        self._places: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float64]] = []

    def add(self, row: int, token_ids: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Of tokens that differ, of a row that has had none."""
        vocab_size = self._scores.shape[1]
        known = (token_ids >= 0) & (token_ids < vocab_size)
        self._places.append(token_ids[known] + row * vocab_size)
        self._values.append(values[known])

    def apply(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Make of the tokens' scores what `change` makes of them and the values."""
        if not self._places:
            return
        device = self._scores.device
        places = upload(torch.from_numpy(np.concatenate(self._places)), device)
        values = upload(torch.from_numpy(np.concatenate(self._values)), device)
        flat = self._scores.view(-1)
        flat[places] = change(flat[places], values)


def _weakened(scores: Tensor, penalties: Tensor) -> Tensor:
    """What is positive divided, what is negative multiplied."""
    return torch.where(scores > 0, scores / penalties, scores * penalties)
