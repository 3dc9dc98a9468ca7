"""Sampling parameters through a whole engine: prefill, decode, and one engine after another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch_driver import save_random_model
from transformers import LlamaConfig

from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.resolve import MOCK_FOLDER
from tandem.core.device import CpuDevice
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan, StepResult
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.engine import TorchEngine

EOS, VOCAB_SIZE = 256, 331
SCHEMA = {
    "type": "object",
    "properties": {"id": {"type": "string", "format": "uuid"}, "n": {"enum": [1, 22, 333]}},
    "required": ["id", "n"],
    "additionalProperties": False,
}
JSON = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
PLAIN = SamplingParams(max_tokens=200, seed=3)
PROMPT = tuple(b"an id, please")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worded-llama")
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=EOS,
    )
    save_random_model(config, path)
    shutil.copy(MOCK_FOLDER / "tokenizer.json", path)
    return path


@pytest.fixture
def engines(path: Path) -> Iterator[list[TorchEngine]]:
    engines = [
        TorchEngine(
            ModelFolder.open(path),
            CpuDevice(),
            dtype="float32",
            block_size=16,
            num_blocks=64,
            max_model_len=512,
        )
        for _ in range(2)
    ]
    yield engines
    for engine in engines:
        engine.close()


@dataclass
class Run:
    """A sequence, and how many of its tokens an engine has computed."""

    sequence_id: int
    params: SamplingParams
    tokens: list[int] = field(default_factory=list)
    num_computed: int = 0
    spec: SampleSpec = field(init=False)

    def __post_init__(self) -> None:
        # As a worker's, it refers to the sequence's own list, and is good for every step.
        self.spec = SampleSpec(self.params, 0, PROMPT, self.tokens)

    def slice(self) -> SequenceSlice:
        """All that is not computed yet: the prompt, or the newest token, or all of it again."""
        known = [*PROMPT, *self.tokens]
        start, self.num_computed = self.num_computed, len(known)
        blocks = range(16 * self.sequence_id, 16 * self.sequence_id + 16)
        return SequenceSlice(self.sequence_id, known[start:], start, blocks, self.spec)


def step(engine: TorchEngine, *runs: Run) -> StepResult:
    result = engine.launch(StepPlan(0, tuple(run.slice() for run in runs))).result()
    for run, token in zip(runs, result.tokens, strict=True):
        if token is not None:
            run.tokens.append(token)
    return result


def generate(engine: TorchEngine, run: Run, count: int = 200) -> list[int]:
    """Up to `count` more tokens."""
    for _ in range(count):
        step(engine, run)
        if run.tokens[-1] == EOS:
            break
    return run.tokens


def test_an_answer_is_valid_by_its_schema_and_ends(engines: list[TorchEngine]) -> None:
    for seed in range(3):
        params = replace(PLAIN, seed=seed, grammar=JSON, temperature=1.5)
        *tokens, end = generate(engines[0], Run(0, params))
        assert end == EOS
        jsonschema.validate(json.loads(bytes(tokens)), SCHEMA)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("num_before", [1, 2, 17])
def test_another_engine_goes_on_with_the_same_tokens(
    engines: list[TorchEngine], num_before: int, temperature: float
) -> None:
    params = replace(
        PLAIN,
        grammar=JSON,
        temperature=temperature,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        min_p=0.01,
        logprobs=2,
    )
    whole = generate(engines[0], Run(0, params))
    first = generate(engines[0], Run(1, params), num_before)
    assert generate(engines[1], Run(0, params, list(first))) == whole
    # And back again, where its place in the grammar is known by more tokens than it has now.
    assert generate(engines[0], Run(0, params, list(first))) == whole


def test_a_hostile_grammar_fails_its_own_sequence(engines: list[TorchEngine]) -> None:
    bad = replace(PLAIN, grammar=Grammar(GrammarKind.REGEX, "("))
    good, plain = Run(1, replace(PLAIN, grammar=JSON)), Run(2, PLAIN)
    result = step(engines[0], Run(0, bad), good, plain)
    assert result.tokens[0] is None and None not in result.tokens[1:]
    assert isinstance(result.failure_of(0), InvalidRequest)
    assert result.failures[1:] == (None, None)
    assert generate(engines[1], Run(1, good.params)) == generate(engines[0], good)


def test_a_token_that_breaks_the_grammar_fails_the_sequence(engines: list[TorchEngine]) -> None:
    result = step(engines[0], Run(0, replace(PLAIN, grammar=JSON), list(b"[")))
    assert result.tokens == (None,)
    assert "does not allow" in str(result.failure_of(0))


def test_no_token_ends_a_sequence_before_its_min_tokens(engines: list[TorchEngine]) -> None:
    wish = ((5, 60.0), (6, 50.0), (EOS, 70.0))
    params = replace(
        PLAIN, logit_bias=wish, min_tokens=4, temperature=0.0, stop_token_ids=frozenset({5, 9999})
    )
    assert generate(engines[0], Run(0, params), 6) == [6, 6, 6, 6, EOS]
    # Where it does not end anything, EOS is a token like others.
    params = replace(params, ignore_eos=True)
    run = Run(1, params)
    for _ in range(3):
        step(engines[0], run)
    assert run.tokens == [EOS] * 3


def test_a_grammar_that_must_end_before_min_tokens_fails(engines: list[TorchEngine]) -> None:
    grammar = Grammar(GrammarKind.REGEX, "ab")
    run = Run(0, replace(PLAIN, grammar=grammar, min_tokens=3))
    assert [step(engines[0], run).failure_of(0) for _ in range(2)] == [None, None]
    failure = step(engines[0], run).failure_of(0)
    assert isinstance(failure, InvalidRequest)
    assert failure.param == "min_tokens"
    assert bytes(run.tokens) == b"ab"


def test_logprobs_come_for_those_who_ask(engines: list[TorchEngine]) -> None:
    asking = replace(PLAIN, logprobs=3, temperature=0.0, logit_bias=((7, 100.0),))
    runs = [Run(0, PLAIN), Run(1, asking), Run(2, replace(asking, logprobs=0))]
    result = step(engines[0], *runs)
    assert result.logprobs[0] is None
    assert isinstance(result.logprobs[1], TokenLogprobs)
    assert len(result.logprobs[1].top_ids) == 3
    assert result.logprobs[2] == TokenLogprobs.of(result.logprobs[1].logprob)
    assert result.tokens[1] == 7
    # The bias lifted the token, not its log-probability.
    assert result.logprobs[1].top_logprobs[0] > result.logprobs[1].logprob
    (alone,) = step(engines[1], Run(5 - 4, asking)).logprobs
    assert alone == result.logprobs[1]
    assert step(engines[0], Run(3, PLAIN)).logprobs == ()


def test_a_row_that_is_no_number_fails_its_own_sequence(
    engines: list[TorchEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = engines[0]._runner.logits

    def broken(*step: Any) -> torch.Tensor:
        rows = logits(*step)
        rows[1, 5] = torch.nan
        return rows

    runs = [Run(sequence_id, replace(PLAIN, logprobs=1)) for sequence_id in range(3)]
    expected = step(engines[1], *(Run(run.sequence_id, run.params) for run in runs))
    monkeypatch.setattr(engines[0]._runner, "logits", broken)
    result = step(engines[0], *runs)
    assert result.tokens == (expected.tokens[0], None, expected.tokens[2])
    assert "not finite" in str(result.failure_of(1))
    assert result.failures[::2] == (None, None)
    assert result.logprobs_of(1) is None
