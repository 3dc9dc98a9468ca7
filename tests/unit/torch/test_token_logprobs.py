"""Log-probabilities of all rows at once, against those of each row by itself."""

from __future__ import annotations

import math
from itertools import cycle, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.core.logprobs import LEAST_LOGPROB, TokenLogprobs
from tandem.engine.torch import token_logprobs
from tandem.engine.torch.ranking import highest, highest_on_device
from tandem.engine.torch.token_logprobs import MAX_ROWS, StepLogprobs

# Of a part more than one: some rows ask for none, for no others, and for all there are.
NUM_TOPS = list(islice(cycle((5, None, 0, 20, 1, 200, 3)), 2 * MAX_ROWS + 9))


def random_logits(rows: int, vocab_size: int = 97) -> Tensor:
    """With many that are equal."""
    logits = 3 * torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(0))
    return logits.round(decimals=1)


def plain_logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Of one row of logits [vocab_size], as they are defined."""
    logprobs = logits.log_softmax(0).nan_to_num(LEAST_LOGPROB, neginf=LEAST_LOGPROB)
    top = logprobs.sort(descending=True, stable=True).indices[:num_top]
    return TokenLogprobs.of(logprobs[token_id].item(), top.tolist(), logprobs[top].tolist())


def of_row(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    (reported,) = StepLogprobs.of(logits[None], torch.tensor([token_id]), [num_top]).report()
    assert reported is not None
    return reported


@pytest.mark.parametrize("rank", [highest, highest_on_device])
@pytest.mark.parametrize("vocab_size", [97, 49_152])
def test_bits_order_and_ties_are_those_of_each_row_alone(
    vocab_size: int, rank: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_logprobs, "highest", rank)
    logits = random_logits(len(NUM_TOPS), vocab_size)
    logits[4] = -math.inf
    logits[5, ::3] = -math.inf
    logits[7, 60:] = math.nan
    token_ids = torch.arange(len(logits)) % vocab_size
    expected = [
        None if num_top is None else plain_logprobs(row, token_id, num_top)
        for row, token_id, num_top in zip(logits, token_ids.tolist(), NUM_TOPS, strict=True)
    ]
    assert StepLogprobs.of(logits, token_ids, NUM_TOPS).report() == expected


SCORES = st.sampled_from((0.0, -0.0, 1e-45, -1e-45, 1.5, -1.5, -12.25, LEAST_LOGPROB, 3e38))


@settings(deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=40), st.data())
def test_ranks_are_by_score_and_then_by_id(scores: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(scores)))
    expected = sorted(range(len(scores)), key=lambda each: -scores[each])[:count]
    rows = torch.tensor([scores, scores])
    assert highest(rows, count).tolist() == [expected] * 2
    assert highest_on_device(rows, count).tolist() == [expected] * 2


def test_nothing_waits_for_the_device_before_the_report() -> None:
    """Who reads a number of a device that has none fails."""
    logits = torch.empty(len(NUM_TOPS), 97, device="meta")
    token_ids = torch.empty(len(NUM_TOPS), dtype=torch.int64, device="meta")
    own, top_ids, top = StepLogprobs.of(logits, token_ids, NUM_TOPS).columns
    num_asked = len(NUM_TOPS) - NUM_TOPS.count(None)
    assert own.wait().shape == (num_asked,)
    assert top_ids.wait().shape == top.wait().shape == (num_asked, 97)


def test_they_are_those_of_the_logits_as_they_are() -> None:
    (logits,) = random_logits(1)
    expected = logits.double().log_softmax(0)
    reported = of_row(logits, 12, 5)
    assert reported.logprob == pytest.approx(expected[12].item(), abs=1e-5)
    best = expected.argsort(descending=True, stable=True)[:5].tolist()
    assert reported.top_ids.tolist() == best
    assert reported.top_logprobs.tolist() == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_equals_are_listed_by_id() -> None:
    logits = torch.zeros(1000)
    logits[[30, 700]] = 1.0
    assert of_row(logits, 0, 5).top_ids.tolist() == [30, 700, 0, 1, 2]
    assert not of_row(logits, 0, 0).top_ids


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_they_are_always_numbers(value: float) -> None:
    reported = of_row(torch.full((50,), value), 3, 2)
    assert reported.logprob == LEAST_LOGPROB
    assert list(reported.top) == [(0, LEAST_LOGPROB), (1, LEAST_LOGPROB)]


def test_where_nobody_asks_nothing_is_computed() -> None:
    logprobs = StepLogprobs.of(random_logits(2), torch.zeros(2, dtype=torch.int64), [None, None])
    assert not logprobs.columns
    assert logprobs.report() == [None, None]
