"""When a sequence ends, and which parameters are taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InvalidRequest
from tandem.core.sampling_params import (
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_STOP_TOKEN_IDS,
    SamplingParams,
)
from tandem.core.sequence import EndRule, FinishReason, Sequence, SequenceKey

EOS, STOP, OTHER = 2, 7, 50
RULE = EndRule(frozenset({EOS}), max_model_len=10)


def params(**given: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 100, "seed": 0} | given))


@pytest.mark.parametrize(
    ("token_id", "details", "num_generated", "length", "reason"),
    [
        (OTHER, {}, 1, 5, None),
        (EOS, {}, 1, 5, FinishReason.STOP),
        (EOS, {"ignore_eos": True}, 1, 5, None),
        (STOP, {}, 1, 5, None),
        (STOP, {"stop_token_ids": frozenset({STOP})}, 1, 5, FinishReason.STOP),
        (EOS, {"ignore_eos": True, "stop_token_ids": {EOS}}, 1, 5, FinishReason.STOP),
        (OTHER, {"max_tokens": 3}, 2, 5, None),
        (OTHER, {"max_tokens": 3}, 3, 5, FinishReason.LENGTH),
        (EOS, {"max_tokens": 3}, 3, 5, FinishReason.STOP),
        (OTHER, {}, 1, 9, None),
        (OTHER, {}, 1, 10, FinishReason.LENGTH),
        (EOS, {"ignore_eos": True}, 1, 10, FinishReason.LENGTH),
    ],
)
def test_the_end_rule(
    token_id: int,
    details: dict[str, Any],
    num_generated: int,
    length: int,
    reason: FinishReason | None,
) -> None:
    assert RULE.finish_reason(params(**details), token_id, num_generated, length) is reason


@given(st.lists(st.sampled_from((EOS, STOP, OTHER)), min_size=20), st.integers(1, 12))
def test_a_sequence_ends_with_the_first_token_for_which_the_rule_says_so(
    tokens: list[int], max_tokens: int
) -> None:
    sequence = Sequence(
        1,
        SequenceKey("r"),
        (1, 1, 1),
        params(max_tokens=max_tokens, stop_token_ids=frozenset({STOP})),
    )
    for count, token_id in enumerate(tokens, start=1):
        assert (sequence.length, sequence.finish_reason) == (2 + count, None)
        reason = sequence.append(token_id, RULE)
        assert sequence.finish_reason is reason
        assert sequence.token_ids == tokens[:count]
        ends = token_id in (EOS, STOP) or count == max_tokens or 3 + count == 10
        assert (reason is not None) is ends
        if ends:
            return


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("temperature", -0.001),
        ("temperature", 2.001),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -math.inf),
        ("top_p", 0.0),
        ("top_p", -0.5),
        ("top_p", 1.001),
        ("top_p", math.nan),
        ("top_p", math.inf),
        ("top_k", -1),
        ("top_k", 2**31),
        ("min_p", -0.001),
        ("min_p", 1.001),
        ("min_p", math.nan),
        ("presence_penalty", -2.001),
        ("presence_penalty", 2.001),
        ("frequency_penalty", 2.001),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 10.001),
        ("repetition_penalty", math.nan),
        ("min_tokens", -1),
        ("min_tokens", 101),
        ("logprobs", -1),
        ("logprobs", MAX_LOGPROBS + 1),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", MAX_LOGPROBS + 1),
        ("logit_bias", ((4, 1.0), (3, 1.0))),
        ("logit_bias", ((3, 1.0), (3, 1.0))),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((2**31, 1.0),)),
        ("logit_bias", ((3, -100.001),)),
        ("logit_bias", ((3, 100.001),)),
        ("logit_bias", ((3, math.nan),)),
        ("logit_bias", tuple((each, 1.0) for each in range(MAX_LOGIT_BIAS + 1))),
        ("stop_token_ids", frozenset(range(MAX_STOP_TOKEN_IDS + 1))),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name) as refusal:
        params(**{name: value}).validate()
    assert refusal.value.param == name


def test_no_tokens_are_asked_for_with_their_prompts_logprobs_alone() -> None:
    params(max_tokens=0, prompt_logprobs=0).validate()
    with pytest.raises(InvalidRequest, match="max_tokens must be at least 0"):
        params(max_tokens=-1, prompt_logprobs=0).validate()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", (1, 2**31)),
        ("seed", (0, 2**63 - 1)),
        ("temperature", (0, 0.0, 2.0)),
        ("top_p", (1.0, 1e-9, 1)),
        ("top_k", (0, 1, 2**31 - 1)),
        ("min_p", (0.0, 1.0)),
        ("presence_penalty", (-2.0, 2.0)),
        ("frequency_penalty", (-2.0, 2.0)),
        ("repetition_penalty", (1e-9, 10.0)),
        ("min_tokens", (0, 100)),
        ("logprobs", (None, 0, MAX_LOGPROBS)),
        ("prompt_logprobs", (None, 0, MAX_LOGPROBS)),
        ("logit_bias", ((), ((0, -100.0), (2**31 - 1, 100.0)))),
        ("logit_bias", (tuple((each, 1.0) for each in range(MAX_LOGIT_BIAS)),)),
        ("stop_token_ids", (frozenset(), frozenset(range(MAX_STOP_TOKEN_IDS)))),
    ],
)
def test_bounds_are_within_the_range(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        params(**{name: value}).validate()


@given(st.floats(), st.floats())
def test_floats_are_taken_only_from_their_range(temperature: float, top_p: float) -> None:
    fits = 0 <= temperature <= 2 and 0 < top_p <= 1
    try:
        params(temperature=temperature, top_p=top_p).validate()
    except InvalidRequest:
        assert not fits
    else:
        assert fits
