"""Each parameter against plain numpy, and rows against the same rows alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plain_sampler import plain_sample

from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import Allowed
from tandem.engine.torch.adjustments import adjust
from tandem.engine.torch.device_sampling import sample_on_device
from tandem.engine.torch.host_sampling import candidates
from tandem.engine.torch.sampler import NO_TOKEN, SampleRow, sample
from tandem.engine.torch.token_counts import TokenCounts

VOCAB_SIZE = 97
PLAIN = SamplingParams(max_tokens=9, seed=7)
GREEDY = replace(PLAIN, temperature=0.0)
PROMPT, OWN = (3, 5, 5, 8, 96), [5, 9, 9, 9, 0]


def random_logits(rows: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed))


def adjusted(logits: torch.Tensor, **params: object) -> NDArray[np.float64]:
    scores = logits.double()
    spec = SampleSpec(replace(PLAIN, **params), 0, PROMPT, OWN)
    adjust(scores.unsqueeze(0), [(spec.params, TokenCounts(spec))])
    return scores.numpy()


def by_hand(logits: NDArray[np.float64], params: SamplingParams) -> NDArray[np.float64]:
    scores = logits.copy()
    for token_id, bias in params.logit_bias:
        if token_id < len(scores):
            scores[token_id] += bias
    for token_id in {*PROMPT, *OWN}:
        factor = params.repetition_penalty
        scores[token_id] *= 1 / factor if scores[token_id] > 0 else factor
    for token_id in set(OWN):
        scores[token_id] -= params.frequency_penalty * OWN.count(token_id)
        scores[token_id] -= params.presence_penalty
    return scores


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"presence_penalty": 1.5},
        {"frequency_penalty": -0.4},
        {"logit_bias": ((0, -100.0), (9, 2.5), (96, 100.0))},
        {"logit_bias": ((5, 3.0), (97, 50.0), (2**31 - 1, 50.0))},
        {
            "repetition_penalty": 1.1,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.25,
            "logit_bias": ((5, 40.0), (8, -40.0)),
        },
    ],
)
def test_penalties_and_bias_are_the_stated_ones(params: dict[str, object]) -> None:
    (logits,) = random_logits(1)
    expected = by_hand(logits.double().numpy(), replace(PLAIN, **params))
    assert np.allclose(adjusted(logits, **params), expected, rtol=1e-14, atol=0)


def test_an_own_token_that_the_model_does_not_know_has_no_effect() -> None:
    (logits,) = random_logits(1)
    scores = logits.double()
    params = replace(PLAIN, repetition_penalty=2.0, frequency_penalty=1.0)
    counts = TokenCounts(SampleSpec(params, 0, (VOCAB_SIZE, -1), [10**9]))
    adjust(scores.unsqueeze(0), [(params, counts)])
    assert torch.equal(scores, logits.double())


def test_greedy_rows_are_adjusted_too() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [5, 7]] = torch.tensor([2.0, 1.5])
    for params, expected in [
        ({}, 5),
        ({"presence_penalty": 1.0}, 7),
        ({"logit_bias": ((11, 2.5),)}, 11),
        ({"repetition_penalty": 2.0}, 7),
    ]:
        spec = SampleSpec(replace(GREEDY, **params), 0, PROMPT, OWN)
        row = SampleRow(spec, 9, counts=TokenCounts(spec))
        assert sample(logits, [row]).tolist() == [expected]


@pytest.mark.parametrize("min_p", [1e-6, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_min_p_is_a_share_of_the_likeliest(min_p: float, temperature: float) -> None:
    (logits,) = random_logits(1)
    scores = logits.double() / temperature
    probabilities = scores.softmax(0).numpy()
    (expected,) = np.nonzero(probabilities >= min_p * probabilities.max() * (1 - 1e-12))
    assert candidates(scores.numpy(), replace(PLAIN, min_p=min_p)).tolist() == expected.tolist()


def test_top_k_and_top_p_apply_to_what_min_p_left() -> None:
    scores = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    assert candidates(scores, replace(PLAIN, min_p=0.4)).tolist() == [1, 2, 3]
    assert candidates(scores, replace(PLAIN, min_p=0.4, top_k=2)).tolist() == [1, 3]
    # Of the three that min-p keeps, the first has 4/9 of the mass.
    assert candidates(scores, replace(PLAIN, min_p=0.4, top_p=0.44)).tolist() == [1]
    assert candidates(scores, replace(PLAIN, min_p=0.4, top_p=0.5)).tolist() == [1, 3]


def mask_of(*token_ids: int) -> NDArray[np.bool_]:
    mask = np.zeros(VOCAB_SIZE, np.bool_)
    mask[list(token_ids)] = True
    return mask


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize("params", [GREEDY, PLAIN, replace(PLAIN, min_p=0.1, top_k=3, top_p=0.5)])
def test_whatever_the_logits_only_what_is_allowed_comes(
    value: float, params: SamplingParams
) -> None:
    logits = torch.full((1, VOCAB_SIZE), value)
    allowed = Allowed(mask_of(40, 41, 42), (41,))
    for position in range(10):
        token = sample(logits, [SampleRow(SampleSpec(params), position, allowed)]).item()
        assert token in ((40, 42) if math.isfinite(value) else (NO_TOKEN,))


def test_bias_does_not_lift_what_is_not_allowed() -> None:
    params = replace(GREEDY, logit_bias=((5, 100.0), (6, -100.0)))
    row = SampleRow(SampleSpec(params), 0, Allowed(mask_of(6)))
    assert sample(random_logits(1), [row]).tolist() == [6]


PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.just(9),
    seed=st.integers(0, 2**63 - 1),
    temperature=st.sampled_from((0.0, 0.7, 1.5)),
    top_p=st.sampled_from((1.0, 0.9, 0.3)),
    top_k=st.sampled_from((0, 1, 20)),
    min_p=st.sampled_from((0.0, 0.2)),
    presence_penalty=st.sampled_from((0.0, 1.0)),
    frequency_penalty=st.sampled_from((0.0, -0.5)),
    repetition_penalty=st.sampled_from((1.0, 1.2)),
    logit_bias=st.sampled_from(((), ((1, 5.0), (9, -100.0)))),
)
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12)
ALLOWED = st.builds(
    Allowed,
    st.none() | st.sets(st.integers(10, VOCAB_SIZE - 1), min_size=1).map(lambda ids: mask_of(*ids)),
    st.sampled_from(((), (1, 2))),
)
ROWS = st.builds(
    lambda spec, position, allowed: SampleRow(spec, position, allowed, TokenCounts(spec)),
    st.builds(SampleSpec, PARAMS, st.integers(0, 3), TOKENS, TOKENS),
    st.integers(0, 10_000),
    ALLOWED,
)


@settings(deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=6), seed=st.integers(0, 1000), data=st.data())
def test_a_row_is_sampled_alike_in_any_batch(
    rows: list[SampleRow], seed: int, data: st.DataObject
) -> None:
    logits = random_logits(len(rows), seed)
    order = data.draw(st.permutations(range(len(rows))))
    ordered = [rows[index] for index in order]
    together = sample(logits[order], ordered).tolist()
    assert sample_on_device(logits[order], ordered).tolist() == together
    for index, token in zip(order, together, strict=True):
        row = rows[index]
        assert token == sample(logits[index : index + 1], [row]).item()
        assert token == plain_sample(logits[index], row)
        assert row.allowed.is_all or token in row.allowed.token_ids(VOCAB_SIZE)
