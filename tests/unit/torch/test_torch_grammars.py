"""What is sampled under a grammar keeps to it, whatever the logits."""

from __future__ import annotations

import json
from random import Random

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import Schema, json_schemas
from llguidance import LLParserLimits

from tandem.artifacts.grammar_text import LIMITS
from tandem.artifacts.grammars import GrammarCompiler, TokenMask
from tandem.artifacts.resolve import resolve
from tandem.core.errors import TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine import grammar_states
from tandem.engine.allowed_tokens import Allowed
from tandem.engine.grammar_states import GrammarStates, Place
from tandem.engine.torch.sampler import SampleRow, sample

MAX_TOKENS = 3000
# More logits than the tokenizer has tokens, as models often have.
NUM_SPARE = 71


class Generator:
    """A model's vocabulary, without the model."""

    def __init__(self, model: str) -> None:
        folder = resolve(model)
        self._tokenizer = folder.tokenizer()
        self._eos_token_ids = folder.config.eos_token_ids
        self._vocab_size = folder.config.vocab_size + NUM_SPARE
        self.compiler = GrammarCompiler(self._tokenizer, self._vocab_size, self._eos_token_ids)
        self._states = self._new_states()
        self._num_answers = 0

    def generate(self, schema: Schema, seed: int) -> str:
        """A whole answer, sampled from random logits."""
        grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
        noise = torch.Generator().manual_seed(seed)
        params = SamplingParams(max_tokens=MAX_TOKENS, seed=seed, grammar=grammar)
        tokens: list[int] = []
        self._num_answers += 1
        while len(tokens) < MAX_TOKENS:
            mask = self._mask(Place(self._num_answers, grammar, tokens))
            logits = 3 * torch.randn(1, self._vocab_size, generator=noise)
            row = SampleRow(SampleSpec(params, token_ids=tokens), len(tokens), Allowed(mask))
            tokens.append(int(sample(logits, [row])))
            if tokens[-1] in self._eos_token_ids:
                return self._tokenizer.decode(tokens[:-1])
        raise AssertionError(f"not at its end after {MAX_TOKENS} tokens")

    def _new_states(self) -> GrammarStates:
        return GrammarStates(lambda: self.compiler)

    def _mask(self, place: Place) -> TokenMask:
        """What may follow: the same for one who has seen the tokens come and one who has not."""
        (mask,) = self._states.masks([place])
        assert not isinstance(mask, TandemError), mask
        if len(place.token_ids) % 5 == 2:
            (again,) = self._new_states().masks([place])
            assert np.array_equal(mask, again)
        return mask


def check(text: str, schema: Schema) -> None:
    jsonschema.validate(
        json.loads(text),
        schema,
        jsonschema.Draft202012Validator,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )


@pytest.fixture(scope="module")
def mock() -> Generator:
    return Generator("mock")


@pytest.fixture(scope="module")
def smollm2() -> Generator:
    return Generator("default")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=json_schemas(), seed=st.integers(0, 2**32))
def test_an_answer_is_valid_by_its_schema(mock: Generator, schema: Schema, seed: int) -> None:
    check(mock.generate(schema, seed), schema)


@pytest.mark.model
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=json_schemas(), seed=st.integers(0, 2**32))
def test_an_answer_in_a_real_vocabulary_is_valid(
    smollm2: Generator, schema: Schema, seed: int
) -> None:
    check(smollm2.generate(schema, seed), schema)


def test_none_of_a_step_is_followed_from_its_start_again(
    mock: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, and though others are prepared between two steps."""
    monkeypatch.setattr(grammar_states, "MAX_KEPT", 4)
    compiler = mock.compiler
    grammar = Grammar(GrammarKind.REGEX, "a{9}")
    states = GrammarStates(lambda: compiler)
    tokens: list[list[int]] = [[] for _ in range(8)]
    places = [Place(index, grammar, its) for index, its in enumerate(tokens)]
    states.masks(places)
    for index in range(8, 12):
        states.prepare(index, grammar)
    for its in tokens:
        its.append(ord("a"))
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "matcher", None)
        masks = states.masks(places)
    assert [mask.nonzero()[0].tolist() for mask in masks if not isinstance(mask, TandemError)] == [
        [ord("a")]
    ] * len(places)


EVERY_TEXT_A_STATE = Grammar(GrammarKind.REGEX, "(a|b)*a(a|b){20}")


@pytest.fixture
def few_states(monkeypatch: pytest.MonkeyPatch) -> GrammarStates:
    """What is compiled of a grammar has room for 400 of its states."""
    monkeypatch.setitem(LIMITS, GrammarKind.REGEX, LLParserLimits(max_lexer_states=400))
    config, tokenizer = resolve("mock").config, resolve("mock").tokenizer()
    return GrammarStates(
        lambda: GrammarCompiler(tokenizer, config.vocab_size, config.eos_token_ids)
    )


def test_no_sequence_ends_by_what_others_made_of_its_grammar(few_states: GrammarStates) -> None:
    random = Random(0)
    texts: list[list[int]] = [[] for _ in range(16)]
    for _ in range(100):
        places = [Place(n, EVERY_TEXT_A_STATE, text) for n, text in enumerate(texts)]
        for text, mask in zip(texts, few_states.masks(places), strict=True):
            assert not isinstance(mask, TandemError), mask
            allowed = np.flatnonzero(mask)
            assert {*b"ab"} <= {*allowed} <= {*b"ab", 256}
            text.append(random.choice(b"ab"))


def test_a_sequence_with_too_many_states_of_its_own_ends_alone(few_states: GrammarStates) -> None:
    long = Random(0).choices(b"ab", k=1000)
    texts = [b"ab", long, b"ba"]
    places = [Place(n, EVERY_TEXT_A_STATE, text) for n, text in enumerate(texts)]
    masks = few_states.masks(places)
    assert [isinstance(mask, TandemError) for mask in masks] == [False, True, False]
