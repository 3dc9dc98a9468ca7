"""The GPU's sampling from whole vocabularies against its definition: on a GPU, or else in Triton's
interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_sampler import plain_sample
from torch import Tensor

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's sampling is untested")

from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch import device_sampling
from tandem.engine.torch.sample_row import NO_TOKEN, SampleRow
from tandem.engine.torch.token_counts import TokenCounts
from tandem.engine.torch.token_logprobs import columns_of
from tandem.engine.torch.triton_sampling import draw, draw_kept

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INF, NAN = float("inf"), float("nan")


def row(temperature: float, seed: int = 0, choice: int = 0, position: int = 3) -> SampleRow:
    params = SamplingParams(max_tokens=1, temperature=temperature, seed=seed)
    return SampleRow(SampleSpec(params, choice), position)


def drawn(logits: Tensor, rows: list[SampleRow]) -> list[int]:
    tokens = torch.full((len(rows),), 77, device=DEVICE)
    draw(logits.to(DEVICE), rows, range(len(rows)), tokens)
    return tokens.tolist()


@pytest.mark.parametrize("size", [100, 2048, 5000, 49_152])
def test_rows_are_sampled_as_it_is_defined(size: int) -> None:
    temperatures = [0.0, 0.3, 1.0, 1.7, 1e-6, 0.0, 5e-324, 40.0]
    rows = [row(each, 2**64 - 1 - i, i % 3, 100 + i) for i, each in enumerate(temperatures)]
    logits = 3.0 * torch.randn(len(rows), size, generator=torch.Generator().manual_seed(size))
    assert drawn(logits, rows) == [plain_sample(*each) for each in zip(logits, rows, strict=True)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrower_logits_are_sampled_as_they_are_in_float32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are equal there; drawn, greedy, filtered, by bias, with what is no number."""
    monkeypatch.setattr(device_sampling, "has_kernels", lambda logits: True)
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 20, "top_p": 0.9},
        {"temperature": 0.0, "logit_bias": ((7, 9.0),)},
    ]
    rows = []
    for seed in range(20):
        spec = SampleSpec(SamplingParams(1, seed, **kinds[seed % len(kinds)]), 0, (5, 6), [7, 7])
        rows.append(SampleRow(spec, 9, counts=TokenCounts(spec)))
    logits = 3.0 * torch.randn(len(rows), 3000, generator=torch.Generator().manual_seed(0))
    logits[[3, 10, 16], [2, 4, 2999]] = torch.tensor([NAN, INF, -INF])
    narrow = logits.to(dtype).to(DEVICE)
    wide = narrow.float()
    tokens = device_sampling.sample_on_device(narrow, rows)
    assert tokens.equal(device_sampling.sample_on_device(wide, rows))
    assert (tokens[[3, 10]] == NO_TOKEN).all()
    for one, other in zip(columns_of(narrow, tokens, 5), columns_of(wide, tokens, 5), strict=True):
        assert one.equal(other)


def test_only_the_rows_that_are_asked_are_sampled() -> None:
    logits = torch.randn(5, 3000, generator=torch.Generator().manual_seed(0))
    rows = [row(1.0, seed=each) for each in range(5)]
    tokens = torch.full((5,), 77, device=DEVICE)
    draw(logits.to(DEVICE), rows, [3, 1], tokens)
    expected = drawn(logits, rows)
    assert tokens.tolist() == [77, expected[1], 77, expected[3], 77]


def test_the_likeliest_is_the_lowest_of_equals() -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    logits[0, [4100, 17, 3000]] = 9.0
    logits[1] = -5.0
    logits[2] = -0.0
    logits[2, 77] = 0.0
    assert drawn(logits, [row(0.0)] * 3) == [17, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_gives_no_token_and_harms_no_other(temperature: float) -> None:
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
    rows = [row(temperature, seed=each) for each in range(6)]
    expected = drawn(logits, rows)
    logits[0, 4999] = INF
    logits[1, 123] = NAN
    logits[3, 123] = -NAN
    logits[4] = -INF
    none = NO_TOKEN
    assert drawn(logits, rows) == [none, none, expected[2], none, none, expected[5]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_has_no_probability_is_not_drawn(temperature: float) -> None:
    logits = torch.full((2, 5000), -INF)
    logits[:, [42, 4242]] = torch.tensor([[-3.0, -INF], [-INF, 5.0]])
    assert drawn(logits, [row(temperature)] * 2) == [42, 4242]


@pytest.mark.parametrize(
    "filters", [{"top_p": 0.3}, {"top_k": 1}, {"top_k": 3000}, {"min_p": 0.5}, {"top_p": 0.9999}]
)
def test_of_equals_the_lowest_ids_are_kept(filters: dict[str, Any]) -> None:
    """Where nearly all that is drawn is wrong, too."""
    logits = torch.full((9, 5000), 1.0)
    logits[3:, 4000:] = 1.5
    logits[6:, 17] = -INF
    rows = [SampleRow(SampleSpec(SamplingParams(1, seed, **filters)), 9) for seed in range(9)]
    expected = [plain_sample(*each) for each in zip(logits, rows, strict=True)]
    assert draw_kept(logits.double().to(DEVICE), rows).tolist() == expected


def test_a_row_of_which_nothing_is_left_has_no_token() -> None:
    logits = torch.stack([torch.full((5000,), each) for each in (-INF, NAN, INF, 0.0)])
    rows = [SampleRow(SampleSpec(SamplingParams(1, 5, top_k=9)), 9)] * 4
    tokens = draw_kept(logits.double().to(DEVICE), rows).tolist()
    assert tokens[0] == NO_TOKEN
    assert tokens[3] == plain_sample(logits[3], rows[3])


def test_a_batch_of_all_kinds_is_sampled_as_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are held at a time of those that take more than a reading."""
    monkeypatch.setattr(device_sampling, "has_kernels", lambda logits: True)
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"top_k": 20},
        {"temperature": 0.0, "logit_bias": ((7, 9.0),)},
        {"temperature": 0.6, "top_p": 0.8, "min_p": 0.01},
        {"temperature": 1.4, "presence_penalty": 1.0},
        {"temperature": 0.0, "top_p": 0.1},
        {"top_k": 3, "top_p": 0.9},
        {"top_p": 0.95, "frequency_penalty": 1.0},
        {"temperature": 2.0, "min_p": 0.3},
        {"temperature": 0.8, "top_k": 2000},
        {"temperature": 1.2, "top_k": 5, "top_p": 0.8, "repetition_penalty": 1.2},
    ]
    rows = []
    for seed in range(77):
        spec = SampleSpec(SamplingParams(1, seed, **kinds[seed % len(kinds)]), 0, (5, 6), [7, 7])
        rows.append(SampleRow(spec, 9, counts=TokenCounts(spec)))
    logits = 3.0 * torch.randn(len(rows), 3000, generator=torch.Generator().manual_seed(0))
    # As grammars leave them.
    logits[::2, [0, 1, 2999]] = -INF
    expected = [plain_sample(*each) for each in zip(logits, rows, strict=True)]
    logits[[5, 9, 16], [2, 4, 2999]] = torch.tensor([NAN, INF, -NAN])
    for broken in (5, 9, 16):
        expected[broken] = NO_TOKEN
    assert device_sampling.sample_on_device(logits.to(DEVICE), rows).tolist() == expected
