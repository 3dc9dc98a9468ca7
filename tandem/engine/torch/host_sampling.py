"""Sampling on the host: one row at a time, which stays in the core's own cache, by numpy, whose
reductions are many times faster there than torch's."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.adjustments import adjust, is_adjusted
from tandem.engine.torch.host_noise import FEW, contenders, float32_buffer, gumbel
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow

Scores = NDArray[np.float64]
Indices = NDArray[np.int64]


def sample_row(logits: NDArray[np.float32], row: SampleRow) -> int:
    """The token of one row of logits [vocab_size], or `NO_TOKEN`."""
    likeliest = int(logits.argmax())
    # The first NaN counts as the highest.
    if not math.isfinite(logits[likeliest]):
        return NO_TOKEN
    if row.is_of_all:
        return likeliest if row.is_greedy else _draw_from_all(logits, likeliest, row)
    return _choose(logits.astype(np.float64), row)


def _draw_from_all(logits: NDArray[np.float32], likeliest: int, row: SampleRow) -> int:
    """Draw from the softmax of a whole vocabulary. What is not in sight of the highest sum is
    never made float64."""
    temperature, key = row.spec.params.temperature, row.key
    bar = float(logits[likeliest]) / temperature + _gumbel_of(key, likeliest)
    ahead = float32_buffer(len(logits))
    np.multiply(logits, np.float32(1.0 / temperature), out=ahead)
    ahead -= np.float32(bar)
    token_ids = contenders(key, ahead, bar, None)
    scores = logits[token_ids].astype(np.float64) / temperature
    return int(token_ids[(scores + gumbel(key, token_ids)).argmax()])


def _choose(scores: Scores, row: SampleRow) -> int:
    """The token of a row that does not just take the likeliest. Overwrites the scores."""
    params = row.spec.params
    if is_adjusted(params):
        adjust(torch.from_numpy(scores).unsqueeze(0), [(params, row.counts)])
    token_ids: Indices | None = None
    if not row.allowed.is_all:
        token_ids = row.allowed.token_ids(len(scores))
        scores = scores[token_ids]
    best = int(scores.argmax())
    if not math.isfinite(scores[best]):
        return NO_TOKEN
    if row.is_greedy:
        return best if token_ids is None else int(token_ids[best])
    if params.temperature != 1.0:
        scores /= params.temperature
    return _draw(row.key, *_only(candidates(scores, params), scores, token_ids))


def _draw(key: int, scores: Scores, token_ids: Indices | None) -> int:
    """Draw from the softmax of the scores: the Gumbel-max trick."""
    if token_ids is None or len(scores) > FEW:
        best = int(scores.argmax())
        best_id = best if token_ids is None else int(token_ids[best])
        bar = float(scores[best]) + _gumbel_of(key, best_id)
        ahead = float32_buffer(len(scores))
        with np.errstate(over="ignore"):
            np.subtract(scores, bar, out=ahead, casting="same_kind")
        left = contenders(key, ahead, bar, token_ids)
        scores, token_ids = scores[left], left if token_ids is None else token_ids[left]
    return int(token_ids[(scores + gumbel(key, token_ids)).argmax()])


def _gumbel_of(key: int, token_id: int) -> float:
    return float(gumbel(key, np.array([token_id]))[0])


def _only(
    kept: Indices | None, scores: Scores, token_ids: Indices | None
) -> tuple[Scores, Indices | None]:
    """The scores at some indices, None for all, and their tokens."""
    if kept is None:
        return scores, token_ids
    return scores[kept], kept if token_ids is None else token_ids[kept]


def candidates(scores: Scores, params: SamplingParams) -> Indices | None:
    """The indices, ascending, that min-p, top-k and top-p leave of scores of which one is finite;
    None for all."""
    likely: Indices | None = None
    if params.min_p > 0.0:
        likely = np.flatnonzero(scores >= scores.max() + math.log(params.min_p))
        scores = scores[likely]
    if 0 < params.top_k < len(scores):
        ranked = highest(scores, params.top_k)
        kept = np.sort(ranked[: _nucleus(scores[ranked], params.top_p)])
    elif params.top_p < 1.0:
        kept = _top_p(scores, params.top_p)
    else:
        return likely
    return kept if likely is None else likely[kept]


def highest(scores: Scores, count: int) -> Indices:
    """The indices of the `count` highest, from the highest down; of equals the lowest first."""
    least = torch.from_numpy(scores).topk(count).values[-1].item()
    return _ranked(scores, scores >= least)[:count]


def _top_p(scores: Scores, top_p: float) -> Indices:
    """The indices of the nucleus. To be sorted are a few, instead of a vocabulary."""
    weights = _exp(scores - scores.max())
    mass = weights.sum()
    # What is less likely than (1 - top_p) / n has less than 1 - top_p together; half of it, for
    # rounding.
    likely = weights >= mass * (1.0 - top_p) / (2 * len(scores))
    if np.count_nonzero(likely) > 8 * FEW:
        ranked = highest(scores, FEW)
        num_kept = _num_kept(weights[ranked] / mass, top_p)
        if num_kept < FEW:
            return np.sort(ranked[:num_kept])
    ranked = _ranked(scores, likely)
    return np.sort(ranked[: _num_kept(weights[ranked] / mass, top_p)])


def _nucleus(scores: Scores, top_p: float) -> int:
    """How many of these scores, from the highest down, are the nucleus of their softmax."""
    if top_p >= 1.0:
        return len(scores)
    weights = np.exp(scores - scores[0])
    return _num_kept(weights / weights.sum(), top_p)


def _num_kept(probabilities: Scores, top_p: float) -> int:
    """How many, from the highest down, it takes to reach `top_p`."""
    mass_before = probabilities.cumsum() - probabilities
    return max(1, int((mass_before < top_p).sum()))


def _ranked(scores: Scores, chosen: NDArray[np.bool_]) -> Indices:
    """The indices that the mask leaves, from the highest score down; of equals the lowest first."""
    indices = np.flatnonzero(chosen)
    return indices[np.argsort(-scores[indices], kind="stable")]


def _exp(values: Scores) -> Scores:
    """In place, by torch: it has vectors for it."""
    torch.from_numpy(values).exp_()
    return values
