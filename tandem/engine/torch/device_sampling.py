"""Sampling on a GPU: all rows in the same few kernels, and nothing that waits for the device. What
is sampled from a whole vocabulary takes one reading of it (`triton_sampling`), all else some thirty
of torch's operations over float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.engine.torch.adjustments import adjust, is_adjusted
from tandem.engine.torch.noise import gumbel
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow
from tandem.engine.torch.uploads import upload

# Bounds what is held at a time: a dozen float64 of each row's vocabulary.
MAX_ROWS = 32


def sample_on_device(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """As `sampler.sample`, on the logits' device."""
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    rest = list(range(len(rows)))
    if logits.is_cuda:
        # Not above: Triton is there only with torch's builds for GPUs.
        from tandem.engine.torch.triton_sampling import draw

        if whole := [index for index in rest if _is_of_all(rows[index])]:
            draw(logits, rows, whole, tokens)
            rest = [index for index in rest if not _is_of_all(rows[index])]
    for start in range(0, len(rest), MAX_ROWS):
        part = rest[start : start + MAX_ROWS]
        chosen = upload(torch.tensor(part), logits.device)
        tokens[chosen] = _sample_part(logits[chosen], [rows[index] for index in part])
    return tokens


def _is_of_all(row: SampleRow) -> bool:
    """Whether the whole vocabulary is sampled from, by the logits as they are."""
    return row.takes_likeliest or row.draws_from_all


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
    return upload(forbidden, scores.device)


def _column(values: Sequence[float], dtype: torch.dtype, like: Tensor) -> Tensor:
    """[rows, 1], on the device."""
    return upload(torch.tensor(values, dtype=dtype), like.device).unsqueeze(1)
