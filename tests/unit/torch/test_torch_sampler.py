from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain_sampler import plain_sample

from tandem.core import noise as core_noise
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch import host_noise, noise
from tandem.engine.torch.device_sampling import sample_on_device
from tandem.engine.torch.host_sampling import candidates
from tandem.engine.torch.sampler import NO_TOKEN, SampleRow, sample
from tandem.engine.torch.token_counts import TokenCounts

Sampler = Callable[[torch.Tensor, Sequence[SampleRow]], torch.Tensor]

PLAIN = SamplingParams(max_tokens=1, seed=7)
GREEDY = replace(PLAIN, temperature=0.0)


def kept_of(scores: torch.Tensor, params: SamplingParams) -> list[int]:
    kept = candidates(scores.numpy(), params)
    return list(range(len(scores))) if kept is None else kept.tolist()


def draw(logits: torch.Tensor, params: SamplingParams, count: int) -> np.ndarray:
    """How often each token comes at `count` positions."""
    spec = SampleSpec(params)
    drawn = [int(sample(logits[None], [SampleRow(spec, position)])) for position in range(count)]
    return np.bincount(drawn, minlength=len(logits))


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_noise_is_the_core_noise(seed: int) -> None:
    ids = np.arange(100_003)
    key = core_noise.position_key(seed, 3, 12345)
    signed = torch.tensor([[key - (key >> 63 << 64)], [5]])
    drawn = noise.uniform(signed, torch.from_numpy(ids))
    assert np.array_equal(drawn[0].numpy(), core_noise.uniform(key, ids))
    assert np.array_equal(drawn[1].numpy(), core_noise.uniform(5, ids))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4, 1e7])
@pytest.mark.parametrize("of_some", [False, True])
def test_whatever_reaches_the_bar_is_left(scale: float, of_some: bool) -> None:
    generator = np.random.default_rng(1)
    ids = np.sort(generator.permutation(30_000)[:20_000]) if of_some else np.arange(20_000)
    for key in range(50):
        scores = scale + 3.0 * generator.standard_normal(len(ids))
        sums = scores + host_noise.gumbel(key, ids)
        bar = sums[scores.argmax()]
        ahead = (scores - bar).astype(np.float32)
        left = host_noise.contenders(key, ahead, bar, ids if of_some else None)
        assert set(np.flatnonzero(sums >= bar)) <= set(left)
        assert left.tolist() == sorted(left)


def test_few_are_left_of_a_vocabulary() -> None:
    scores = 3.0 * np.random.default_rng(0).standard_normal(20_000)
    nums_left = []
    for key in range(50):
        bar = scores.max() + host_noise.gumbel(key, scores.argmax()[None])[0]
        ahead = (scores - bar).astype(np.float32)
        nums_left.append(len(host_noise.contenders(key, ahead, bar, None)))
    assert np.median(nums_left) < 100


def test_greedy_takes_the_lowest_of_equal_logits() -> None:
    logits = torch.zeros(3, 50_000)
    logits[1, [4000, 40_000]] = 2.0
    logits[2, 49_999] = 1.0
    assert sample(logits, [SampleRow(SampleSpec(GREEDY), 1)] * 3).tolist() == [0, 4000, 49_999]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5])
    counts = draw(logits, replace(PLAIN, temperature=temperature), 4000)
    # 4 degrees of freedom: above 18.5 with a probability of 0.001.
    assert chi_square(counts, (logits / temperature).softmax(0).double().numpy()) < 18.5


def test_filtered_draws_follow_the_renormalised_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5])
    counts = draw(logits, replace(PLAIN, top_k=3), 4000)
    kept = logits[[0, 3, 4]].softmax(0).double().numpy()
    assert counts[[1, 2]].sum() == 0
    assert chi_square(counts[[0, 3, 4]], kept) < 13.8


@pytest.mark.parametrize("top_k", [1, 2, 7, 500, 2**31 - 1])
def test_top_k_keeps_the_highest(top_k: int) -> None:
    scores = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    kept = kept_of(scores, replace(PLAIN, top_k=top_k))
    expected = sorted(range(400), key=lambda each: -scores[each].item())[:top_k]
    assert kept == sorted(expected)


def test_top_k_keeps_the_lowest_ids_of_equals() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0]).double()
    assert kept_of(scores, replace(PLAIN, top_k=3)) == [1, 2, 4]


@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_top_p_keeps_the_smallest_prefix_that_reaches_it(top_p: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(3000, generator=generator).double()
    kept = torch.tensor(kept_of(scores, replace(PLAIN, top_p=top_p)))
    probabilities = scores.softmax(0)
    masses = probabilities[kept].sort(descending=True).values.cumsum(0)
    others = probabilities.clone()
    others[kept] = 0.0
    assert others.max() <= probabilities[kept].min()
    assert masses[-1] >= top_p - 1e-9
    assert len(kept) == 1 or masses[-2] < top_p


def test_top_p_applies_to_what_top_k_left() -> None:
    scores = torch.tensor([math.log(each) for each in (0.4, 0.3, 0.2, 0.1)]).double()
    # Of the two that top-k keeps, the first has 4/7 of the mass.
    assert kept_of(scores, replace(PLAIN, top_k=2, top_p=0.5)) == [0]
    assert kept_of(scores, replace(PLAIN, top_p=0.5)) == [0, 1]


def test_a_row_depends_on_nothing_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 1000, generator=generator)
    params = [
        GREEDY,
        PLAIN,
        replace(PLAIN, seed=8),
        replace(PLAIN, top_k=20),
        replace(PLAIN, top_p=0.8, temperature=1.7),
    ]
    rows = [SampleRow(SampleSpec(params[i % 5], choice_index=i % 3), 100 + i) for i in range(40)]
    together = sample(logits, rows).tolist()
    single = [int(sample(logits[i : i + 1], [rows[i]])) for i in range(40)]
    assert together == single


def test_choices_seeds_and_positions_draw_apart() -> None:
    logits = torch.zeros(1, 10_000)
    specs = [SampleSpec(replace(PLAIN, seed=seed), choice) for seed in (1, 2) for choice in (0, 1)]
    drawn = {int(sample(logits, [SampleRow(spec, at)])) for spec in specs for at in (5, 6)}
    assert len(drawn) == 8


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-6])
def test_a_very_low_temperature_is_greedy(temperature: float) -> None:
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    for filtered in ({}, {"top_k": 5}, {"top_p": 0.5}):
        spec = SampleSpec(replace(PLAIN, temperature=temperature, **filtered))
        assert sample(logits, [SampleRow(spec, 3)]).item() == logits.argmax().item()


@pytest.mark.parametrize("where", [slice(None), slice(7, 8)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampler", [sample, sample_on_device])
def test_a_broken_row_gives_no_token_and_harms_no_other(
    value: float, where: slice, sampler: Sampler
) -> None:
    logits = torch.randn(6, 100, generator=torch.Generator().manual_seed(0))
    logits[1::2, where] = value
    for params in [
        GREEDY,
        replace(GREEDY, logit_bias=((3, 1.0),)),
        PLAIN,
        *(replace(PLAIN, **each) for each in ({"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1})),
    ]:
        rows = [SampleRow(SampleSpec(params), i) for i in range(6)]
        tokens = sampler(logits, rows)
        assert (tokens[1::2] == NO_TOKEN).all()
        assert torch.equal(tokens[::2], sampler(logits[::2], rows[::2]))
        assert (tokens[::2] >= 0).all()


@pytest.mark.parametrize("sampler", [sample, sample_on_device])
def test_what_has_no_probability_is_not_drawn(sampler: Sampler) -> None:
    logits = torch.full((20, 100), -math.inf)
    logits[:, 42] = -3.0
    for params in (GREEDY, PLAIN, replace(PLAIN, top_p=0.5), replace(PLAIN, min_p=0.1, top_k=7)):
        rows = [SampleRow(SampleSpec(params), position) for position in range(20)]
        assert sampler(logits, rows).tolist() == [42] * 20
        assert sampler(torch.full_like(logits, -math.inf), rows).tolist() == [NO_TOKEN] * 20


@pytest.mark.parametrize("sampler", [sample, sample_on_device])
def test_no_rows_no_tokens(sampler: Sampler) -> None:
    assert sampler(torch.empty(0, 10), []).tolist() == []


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 0.7},
        {"temperature": 1.7},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 50},
        {"top_k": 50, "top_p": 0.8},
        {"min_p": 0.05},
        {"min_p": 0.01, "top_k": 40, "top_p": 0.7},
        {"temperature": 1.3, "logit_bias": ((5, 4.0), (40_000, -2.0)), "presence_penalty": 1.0},
    ],
)
def test_a_vocabulary_is_sampled_as_it_is_defined(changes: dict[str, Any], spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(12, 49_152, generator=generator)
    specs = [SampleSpec(replace(PLAIN, seed=i, **changes), 0, (5, 6), [7, 7]) for i in range(12)]
    rows = [SampleRow(spec, 100 + i, counts=TokenCounts(spec)) for i, spec in enumerate(specs)]
    expected = [plain_sample(each, row) for each, row in zip(logits, rows, strict=True)]
    assert sample(logits, rows).tolist() == expected
    assert sample_on_device(logits, rows).tolist() == expected
