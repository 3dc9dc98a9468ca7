"""What restricts tokens restricts the fake engine's, and nothing else changes them."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from tandem.artifacts import grammars
from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.plan import SampleSpec, ScoreSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import Allowed
from tandem.engine.fake.candidates import candidates, token_logprobs
from tandem.engine.fake.content import expected_tokens
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.protocols import ModelInfo

MOCK = resolve("mock")
EOS = 256
MODEL = ModelInfo("mock", "0" * 64, 260, 4096, frozenset({EOS}), "fake")
OUTPUTS = (32, 127)
COMPILER = GrammarCompiler(MOCK.tokenizer(), 260, frozenset({EOS}))
PLAIN = SamplingParams(max_tokens=900, seed=5)
PROMPT = tuple(b"some json, please")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "tags": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
JSON = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))


@pytest.fixture
def engine(make_engine) -> FakeEngine:
    return make_engine(
        model=MODEL,
        output_token_ids=OUTPUTS,
        num_blocks=512,
        verify="incremental",
        open_tokenizer=MOCK.tokenizer,
    )


def generate(engine: FakeEngine, params: SamplingParams, count: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < count and EOS not in tokens:
        start = len(PROMPT) + len(tokens) - 1 if tokens else 0
        spec = SampleSpec(params, 0, PROMPT, tokens)
        new = [*PROMPT, *tokens][start:]
        result = engine.launch(
            StepPlan(0, (SequenceSlice(0, new, start, range(512), spec),))
        ).result()
        assert result.failures == ()
        tokens.append(result.tokens[0])
    return tokens


def chosen_from(allowed: Sequence[int] | None = None, **params: object) -> list[int]:
    mask = None
    if allowed is not None:
        mask = np.zeros(260, np.bool_)
        mask[list(allowed)] = True
    barred = params.pop("barred", ())
    return list(
        candidates((40, 44), replace(PLAIN, **params), Allowed(mask, barred), frozenset({EOS}))
    )


def test_what_it_chooses_from() -> None:
    assert chosen_from() == [40, 41, 42, 43]
    assert chosen_from(barred=(41, EOS)) == [40, 42, 43]
    assert chosen_from(logit_bias=((40, -100.0), (41, -99.0), (42, 100.0))) == [41, 42, 43]
    assert chosen_from([3, 42, EOS]) == [42, EOS]
    assert chosen_from([3, 42, EOS], barred=(EOS,)) == [42]
    assert chosen_from([3, 9]) == [3, 9]
    assert chosen_from([3, 9], logit_bias=((9, -100.0),)) == [3]
    # A bias is a wish: what must be can be forbidden by none.
    assert chosen_from([9], logit_bias=((9, -100.0),)) == [9]


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_valid_by_its_schema_and_as_expected(engine: FakeEngine, seed: int) -> None:
    params = replace(PLAIN, seed=seed, grammar=JSON)
    tokens = generate(engine, params, 900)
    assert tokens[-1] == EOS
    jsonschema.validate(json.loads(bytes(tokens[:-1])), SCHEMA)
    assert tokens == expected_tokens(
        PROMPT,
        params,
        len(tokens),
        output_token_ids=OUTPUTS,
        eos_token_ids=frozenset({EOS}),
        compiler=COMPILER,
    )


def test_a_stop_token_waits_for_min_tokens(engine: FakeEngine) -> None:
    digits = frozenset(range(ord("0"), ord("9") + 1))
    params = replace(PLAIN, min_tokens=60, stop_token_ids=digits)
    tokens = generate(engine, params, 200)
    assert digits.isdisjoint(tokens[:60])
    assert not digits.isdisjoint(tokens[60:])
    assert tokens == expected_tokens(PROMPT, params, 200, output_token_ids=OUTPUTS)


def test_what_shifts_probabilities_changes_nothing(engine: FakeEngine) -> None:
    shifted = replace(
        PLAIN,
        presence_penalty=2.0,
        frequency_penalty=-2.0,
        repetition_penalty=5.0,
        logit_bias=((70, 100.0), (71, -99.0)),
        min_p=0.9,
        top_k=1,
        top_p=0.1,
    )
    assert generate(engine, shifted, 40) == generate(engine, PLAIN, 40)


def test_logprobs_are_uniform_over_the_outputs(engine: FakeEngine) -> None:
    each = -math.log(95)
    spec = SampleSpec(replace(PLAIN, logprobs=2))
    rows = [
        SequenceSlice(0, PROMPT, 0, range(8), spec),
        SequenceSlice(1, PROMPT, 0, range(8, 16), SampleSpec(PLAIN)),
        SequenceSlice(2, PROMPT, 0, range(16, 24), None),
    ]
    result = engine.launch(StepPlan(0, tuple(rows))).result()
    assert result.logprobs == (TokenLogprobs.of(each, (32, 33), (each, each)), None, None)
    assert token_logprobs(OUTPUTS, EOS, 0) == TokenLogprobs.of(-9999.0)
    assert len(token_logprobs(OUTPUTS, 40, 20).top_ids) == 20


def test_tokens_that_are_there_are_as_likely_as_sampled_ones(engine: FakeEngine) -> None:
    each = -math.log(95)
    rows = [
        SequenceSlice(0, (1, 40), 0, (0,), SampleSpec(PLAIN), score=ScoreSpec((40, 200), 1)),
        SequenceSlice(1, (1, 40), 0, (1,), SampleSpec(PLAIN)),
    ]
    result = engine.launch(StepPlan(0, tuple(rows), num_prefill_tokens=4)).result()
    top = array("I", [32, 32]), array("f", [each, each])
    assert result.scores == (LogprobColumns(array("f", [each, -9999.0]), *top), None)


def test_a_failure_is_its_sequences_own(make_engine, engine: FakeEngine) -> None:
    bad = SampleSpec(replace(PLAIN, grammar=Grammar(GrammarKind.LARK, "start: (")))
    rows = (
        SequenceSlice(0, PROMPT, 0, range(8), bad),
        SequenceSlice(1, PROMPT, 0, range(8, 16), SampleSpec(PLAIN)),
    )
    result = engine.launch(StepPlan(0, rows)).result()
    assert isinstance(result.failure_of(0), InvalidRequest)
    assert result.failure_of(1) is None
    assert result.tokens == (None, *expected_tokens(PROMPT, PLAIN, 1, output_token_ids=OUTPUTS))
    without_tokenizer = make_engine(model=MODEL, output_token_ids=OUTPUTS)
    result = without_tokenizer.launch(StepPlan(0, rows)).result()
    assert "without a tokenizer" in str(result.failure_of(0))


def test_no_step_compiles_what_the_engine_was_prepared_for(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(PLAIN, grammar=JSON)
    expected = generate(engine, params, 20)
    fresh = FakeEngine(
        MODEL,
        profile=engine._profile,
        block_size=16,
        num_blocks=512,
        output_token_ids=OUTPUTS,
        open_tokenizer=MOCK.tokenizer,
    )
    fresh.warm_up()
    monkeypatch.delattr(grammars, "LLTokenizer")
    fresh.prepare(0, params)
    fresh.prepare(1, PLAIN)
    with pytest.raises(InvalidRequest, match="regular expression"):
        fresh.prepare(2, replace(PLAIN, grammar=Grammar(GrammarKind.REGEX, "(")))
    monkeypatch.delattr(grammars, "LLMatcher")
    assert generate(fresh, params, 20) == expected
    fresh.close()


def test_an_engine_that_can_keep_to_no_grammar_starts_all_the_same(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine(model=MODEL, output_token_ids=OUTPUTS)
    engine.warm_up()
    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        engine.prepare(0, replace(PLAIN, grammar=JSON))
