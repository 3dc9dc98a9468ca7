"""Counts that are kept from step to step, against those of the whole text."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from plain_sampler import plain_adjust

from tandem.core.plan import SampleSpec, SequenceSlice
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch import token_counts
from tandem.engine.torch.adjustments import adjust
from tandem.engine.torch.token_counts import SequenceCounts, TokenCounts

PLAIN = SamplingParams(max_tokens=9, seed=7)
PENALISED = replace(PLAIN, presence_penalty=0.7, frequency_penalty=0.3)
REPEATED = replace(PENALISED, repetition_penalty=1.3)
VOCAB_SIZE = 997


def slice_of(spec: SampleSpec | None, sequence_id: int = 1) -> SequenceSlice:
    return SequenceSlice(sequence_id, (5,), 0, (0,), spec)


def of(counts: SequenceCounts, spec: SampleSpec, sequence_id: int = 1) -> TokenCounts:
    (found,) = counts.of([slice_of(spec, sequence_id)])
    assert found is not None
    return found


def assert_right(counts: TokenCounts, spec: SampleSpec) -> None:
    """To the last bit."""
    scores = torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(1)).double()
    expected = scores.clone()
    adjust(scores.unsqueeze(0), [(spec.params, counts)])
    plain_adjust(expected, spec)
    assert torch.equal(scores, expected)


class UnreadBefore(list[int]):
    """Tokens of which some must not be read any more."""

    first = 0

    def __getitem__(self, key: object) -> object:
        assert isinstance(key, slice) and (key.start or 0) >= self.first
        return super().__getitem__(key)

    def __iter__(self) -> object:
        raise AssertionError("read from the beginning")


@pytest.mark.parametrize("params", [PENALISED, REPEATED, replace(PLAIN, repetition_penalty=0.8)])
def test_penalties_are_the_same_bits_at_each_step_of_a_text(params: SamplingParams) -> None:
    draw = random.Random(0)
    own: list[int] = []
    spec = SampleSpec(params, 0, tuple(draw.choices(range(1200), k=300)), own)
    kept = SequenceCounts()
    for _ in range(100):
        assert_right(of(kept, spec), spec)
        # Mostly one, as a step gives; more where it has run elsewhere meanwhile.
        own.extend(draw.choices(range(1200), k=draw.choice((0, 1, 1, 1, 40))))


def test_a_step_goes_through_new_tokens_alone() -> None:
    own = UnreadBefore(range(500))
    spec = SampleSpec(PENALISED, 0, (), own)
    kept = SequenceCounts()
    first = of(kept, spec)
    own.first = 500
    own.append(3)
    assert of(kept, spec) is first
    token_ids, times = first.generated
    assert dict(zip(token_ids, times, strict=True)) == {**dict.fromkeys(range(500), 1), 3: 2}


def test_a_sequence_that_comes_back_with_other_tokens_is_counted_anew() -> None:
    kept = SequenceCounts()
    own = [4, 4, 8, 9]
    before = SampleSpec(REPEATED, 0, (5, 6), own)
    of(kept, before)
    for spec in (
        SampleSpec(REPEATED, 0, (5, 6), [4, 7, 7, 9]),
        SampleSpec(REPEATED, 0, (5, 6), [4, 7]),
        SampleSpec(REPEATED, 0, (5, 1, 2), [4, 7, 7, 9]),
        SampleSpec(PENALISED, 0, (5, 6), own),
        before,
    ):
        assert_right(of(kept, spec), spec)
    del own[2:]
    assert_right(of(kept, before), before)


def test_what_has_no_penalties_is_not_counted() -> None:
    plain = SampleSpec(replace(PLAIN, logit_bias=((3, 1.0),)), 0, (1,), [2])
    penalised = SampleSpec(PENALISED, 0, (1,), [2])
    slices = [slice_of(plain, 1), slice_of(None, 2), slice_of(penalised, 3)]
    first, second = SequenceCounts().of(slices)
    assert first is None and second is not None


def test_those_that_stepped_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "MAX_KEPT", 2)
    kept = SequenceCounts()
    specs = [SampleSpec(PENALISED, 0, (), [1, each]) for each in range(4)]
    slices = [slice_of(spec, index) for index, spec in enumerate(specs)]
    # None that a step has, however many they are.
    found = kept.of(slices)
    assert kept.of(slices) == found
    assert kept.of(slices[:1]) == found[:1]
    assert of(kept, specs[3], 3) is found[3]
    again = of(kept, specs[1], 1)
    assert again is not found[1]
    assert_right(again, specs[1])
