"""Sampling on a GPU: all rows in the same few kernels, and nothing that waits for the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.engine.torch.adjustments import adjust, is_adjusted
from tandem.engine.torch.noise import gumbel
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow

# Bounds what is held at a time: a dozen float64 of each row's vocabulary.
MAX_ROWS = 32


def sample_on_device(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """As `sampler.sample`, on the logits' device."""
    if all(row.takes_likeliest for row in rows):
        return _likeliest(logits)
    parts = [
        _sample_part(logits[start : start + MAX_ROWS], rows[start : start + MAX_ROWS])
        for start in range(0, len(rows), MAX_ROWS)
    ]
    return torch.cat(parts)


def _sample_part(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    scores = logits.double()
    for index, row in enumerate(rows):
        if is_adjusted(row.spec.params):
            adjust(scores[index], row.spec.params, row.counts)
        if not row.allowed.is_all:
            scores[index].masked_fill_(_forbidden(row, scores), -math.inf)
    tokens = scores.argmax(dim=-1)
    # What is not a number anywhere, or has nothing left.
    broken = ~(logits.amax(dim=-1).isfinite() & scores.amax(dim=-1).isfinite())
    if not all(row.is_greedy for row in rows):
        greedy = _column([row.is_greedy for row in rows], torch.bool, scores)
        tokens = torch.where(greedy.squeeze(1), tokens, _draw(scores, rows))
    return tokens.masked_fill_(broken, NO_TOKEN)


def _likeliest(logits: Tensor) -> Tensor:
    """`NO_TOKEN` where the highest logit is no number."""
    if logits.is_cuda:
        # Not above: Triton is there only with torch's builds for GPUs.
        from tandem.engine.torch.triton_layers import likeliest

        return likeliest(logits)
    tokens = logits.argmax(dim=-1)
    chosen = logits.gather(1, tokens.unsqueeze(1)).squeeze(1)
    return tokens.masked_fill_(~chosen.isfinite(), NO_TOKEN)


def _draw(scores: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The tokens that are drawn; of greedy rows any."""
    params = [row.spec.params for row in rows]
    scores /= _column(
        [1.0 if row.is_greedy else row.spec.params.temperature for row in rows],
        torch.float64,
        scores,
    )
    if any(each.min_p > 0.0 or each.top_k > 0 or each.top_p < 1.0 for each in params):
        scores.masked_fill_(~_kept(scores, rows), -math.inf)
    keys = _column([row.key - (row.key >> 63 << 64) for row in rows], torch.int64, scores)
    token_ids = torch.arange(scores.shape[1], device=scores.device)
    return scores.add_(gumbel(keys, token_ids)).argmax(dim=-1)


def _kept(scores: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """What min-p, top-k and top-p leave, as a mask: each takes the head of the same order."""
    params = [row.spec.params for row in rows]
    size = scores.shape[1]
    ordered, token_ids = scores.sort(dim=-1, descending=True, stable=True)
    least = [math.log(each.min_p) if each.min_p > 0.0 else -math.inf for each in params]
    top_k = [each.top_k if 0 < each.top_k < size else size for each in params]
    ranks = torch.arange(size, device=scores.device)
    kept = (ordered >= ordered[:, :1] + _column(least, torch.float64, scores)) & (
        ranks < _column(top_k, torch.int64, scores)
    )
    probabilities = ordered.masked_fill(~kept, -math.inf).softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    top_p = _column([each.top_p for each in params], torch.float64, scores)
    kept &= (mass_before < top_p) | (top_p >= 1.0) | (ranks == 0)
    return torch.zeros_like(kept).scatter_(1, token_ids, kept)


def _forbidden(row: SampleRow, scores: Tensor) -> Tensor:
    """A mask [vocab_size] of what may not be sampled."""
    forbidden = torch.ones(scores.shape[1], dtype=torch.bool)
    forbidden[torch.from_numpy(row.allowed.token_ids(scores.shape[1]))] = False
    return forbidden.to(scores.device, non_blocking=True)


def _column(values: Sequence[float], dtype: torch.dtype, like: Tensor) -> Tensor:
    """[rows, 1], on the device."""
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True).unsqueeze(1)
