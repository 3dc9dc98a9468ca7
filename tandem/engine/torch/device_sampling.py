"""Sampling on a GPU: all rows in the same few kernels, and nothing that waits for the device. What
is sampled from a whole vocabulary takes one reading of it, and what filters keep some more
(`triton_sampling`); penalties, grammars, and a top-k with a top-p take torch's operations over
float64 before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tandem.engine.torch.adjustments import adjust, is_adjusted
from tandem.engine.torch.noise import gumbel
from tandem.engine.torch.ranking import highest_on_device
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow
from tandem.engine.torch.uploads import upload

# Bounds what is held at a time: a dozen float64 of each row's vocabulary.
MAX_ROWS = 32
# By top-k, up to which a row's tokens are chosen from its vocabulary, which is not sorted then.
MAX_FEW = 1024


def sample_on_device(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """As `sampler.sample`, on the logits' device."""
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    whole: list[int] = []
    rest: list[int] = []
    by_kernels = has_kernels(logits)
    for index, row in enumerate(rows):
        (whole if by_kernels and row.is_of_all else rest).append(index)
    if whole:
        _draw_by_kernels(logits, rows, whole, tokens)
    for start in range(0, len(rest), MAX_ROWS):
        part = rest[start : start + MAX_ROWS]
        chosen = upload(torch.tensor(part), logits.device)
        tokens[chosen] = _sample_part(logits[chosen], [rows[index] for index in part])
    return tokens


def has_kernels(logits: Tensor) -> bool:
    """Whether `triton_sampling` can draw from them."""
    return logits.is_cuda


def _sample_part(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    scores = logits.double()
    adjust(scores, [(row.spec.params, row.counts) for row in rows])
    _forbid(scores, rows)
    # What is not a number anywhere, or has nothing left.
    broken = ~(logits.amax(dim=-1).isfinite() & scores.amax(dim=-1).isfinite())
    filtered = [index for index, row in enumerate(rows) if row.is_filtered]
    drawn = [index for index in filtered if has_kernels(scores) and _is_told_alone(rows[index])]
    few = [index for index in filtered if index not in drawn and _keeps_few(rows[index])]
    many = [index for index in filtered if index not in drawn and index not in few]
    for indices, are_few in ((few, True), (many, False)):
        if indices:
            chosen = upload(torch.tensor(indices), scores.device)
            some = scores[chosen]
            kept = _kept(some, [rows[index] for index in indices], are_few)
            scores[chosen] = some.masked_fill_(~kept, -math.inf)
    tokens = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
    if drawn:
        chosen = upload(torch.tensor(drawn), scores.device)
        tokens[chosen] = _draw_kept_by_kernels(scores[chosen], [rows[index] for index in drawn])
    if rest := [index for index in range(len(rows)) if index not in drawn]:
        _draw(scores, rows, rest, tokens)
    return tokens.masked_fill_(broken, NO_TOKEN)


def _draw(
    scores: Tensor, rows: Sequence[SampleRow], indices: Sequence[int], tokens: Tensor
) -> None:
    """Put the tokens of the rows `indices` into `tokens`: the likeliest of a greedy row; of
    another, one that is drawn."""
    if has_kernels(scores):
        _draw_by_kernels(scores, rows, indices, tokens)
        return
    some, chosen = scores[list(indices)], [rows[index] for index in indices]
    likeliest = some.argmax(dim=-1)
    keys = _column([row.key - (row.key >> 63 << 64) for row in chosen], torch.int64, some)
    noise = gumbel(keys, torch.arange(some.shape[1], device=some.device))
    drawn = noise.add_(some / _temperatures(some, chosen)).argmax(dim=-1)
    greedy = _column([row.is_greedy for row in chosen], torch.bool, some)
    tokens[list(indices)] = torch.where(greedy.squeeze(1), likeliest, drawn)


def _draw_by_kernels(
    scores: Tensor, rows: Sequence[SampleRow], indices: Sequence[int], tokens: Tensor
) -> None:
    # Not above: Triton is there only with torch's builds for GPUs.
    from tandem.engine.torch.triton_sampling import draw

    draw(scores, rows, indices, tokens)


def _keeps_few(row: SampleRow) -> bool:
    """Whether a row's likeliest tokens can be had without sorting its vocabulary: from logits that
    are float32 still."""
    params = row.spec.params
    return 0 < params.top_k <= MAX_FEW and not is_adjusted(params)


def _is_told_alone(row: SampleRow) -> bool:
    """Whether of a token alone, and those before it, it can be told that the filters keep it: with
    a top-k, top-p is a share of what that keeps."""
    params = row.spec.params
    return params.top_k == 0 or params.top_p >= 1.0


def _draw_kept_by_kernels(scores: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    # Not above: see `_draw_by_kernels`.
    from tandem.engine.torch.triton_sampling import draw_kept

    return draw_kept(scores / _temperatures(scores, rows), rows)


def _kept(scores: Tensor, rows: Sequence[SampleRow], are_few: bool) -> Tensor:
    """What min-p, top-k and top-p leave, as a mask: each takes the head of the same order.
    `are_few`: whether each row keeps few, see `_keeps_few`."""
    params = [row.spec.params for row in rows]
    size = scores.shape[1]
    top_k = [each.top_k if 0 < each.top_k < size else size for each in params]
    by_temperature = scores / _temperatures(scores, rows)
    if are_few:
        token_ids = highest_on_device(scores.float(), max(top_k))
        ordered = by_temperature.gather(1, token_ids)
    else:
        ordered, token_ids = by_temperature.sort(dim=-1, descending=True, stable=True)
    least = [math.log(each.min_p) if each.min_p > 0.0 else -math.inf for each in params]
    ranks = torch.arange(ordered.shape[1], device=scores.device)
    kept = (ordered >= ordered[:, :1] + _column(least, torch.float64, scores)) & (
        ranks < _column(top_k, torch.int64, scores)
    )
    probabilities = ordered.masked_fill(~kept, -math.inf).softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    top_p = _column([each.top_p for each in params], torch.float64, scores)
    kept &= (mass_before < top_p) | (top_p >= 1.0) | (ranks == 0)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, token_ids, kept)


def _temperatures(scores: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """[rows, 1]; of greedy rows 1."""
    values = [1.0 if row.is_greedy else row.spec.params.temperature for row in rows]
    return _column(values, torch.float64, scores)


def _forbid(scores: Tensor, rows: Sequence[SampleRow]) -> None:
    """Take out what grammars and `min_tokens` do not allow."""
    limited = [index for index, row in enumerate(rows) if not row.allowed.is_all]
    if limited:
        allowed = np.stack([rows[index].allowed.as_mask(scores.shape[1]) for index in limited])
        forbidden = upload(torch.from_numpy(~allowed), scores.device)
        chosen = upload(torch.tensor(limited), scores.device)
        scores[chosen] = scores[chosen].masked_fill_(forbidden, -math.inf)


def _column(values: Sequence[float], dtype: torch.dtype, like: Tensor) -> Tensor:
    """[rows, 1], on the device."""
    return upload(torch.tensor(values, dtype=dtype), like.device).unsqueeze(1)
