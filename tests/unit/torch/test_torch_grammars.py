"""What is sampled under a grammar keeps to it, whatever the logits."""

from __future__ import annotations

import json

import jsonschema
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import Schema, json_schemas

from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.core.errors import TandemError
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.plan import SampleSpec
from tandem.core.sampling_params import SamplingParams
from tandem.engine.allowed_tokens import Allowed
from tandem.engine.grammar_states import GrammarStates, Place
from tandem.engine.torch.sampler import SampleRow, sample

MOCK = resolve("mock")
EOS = 256
# More logits than the tokenizer has tokens, as models often have.
VOCAB_SIZE = 331
COMPILER = GrammarCompiler(MOCK.tokenizer(), VOCAB_SIZE, frozenset({EOS}))
MAX_TOKENS = 3000


def generate(grammar: Grammar, seed: int) -> str:
    """A whole answer, sampled from random logits."""
    states = GrammarStates(lambda: COMPILER)
    generator = torch.Generator().manual_seed(seed)
    params = SamplingParams(max_tokens=MAX_TOKENS, seed=seed, grammar=grammar)
    tokens: list[int] = []
    while len(tokens) < MAX_TOKENS:
        (mask,) = states.masks([Place(1, grammar, tokens)])
        assert not isinstance(mask, TandemError), mask
        logits = 3 * torch.randn(1, VOCAB_SIZE, generator=generator)
        row = SampleRow(SampleSpec(params, token_ids=tokens), len(tokens), Allowed(mask))
        token = int(sample(logits, [row]))
        if token == EOS:
            return bytes(tokens).decode()
        tokens.append(token)
    raise AssertionError(f"not at its end after {MAX_TOKENS} tokens: {bytes(tokens)!r:.500}")


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=json_schemas(), seed=st.integers(0, 2**32))
def test_an_answer_is_valid_by_its_schema(schema: Schema, seed: int) -> None:
    text = generate(Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema)), seed)
    jsonschema.validate(
        json.loads(text),
        schema,
        jsonschema.Draft202012Validator,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )
