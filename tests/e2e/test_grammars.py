"""Grammars through real processes: a prefill worker samples the first token, a decode worker the
rest, and it is one answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest
from stack import Stack, collect, expected_mock_tokens, running_stack

from tandem.artifacts.resolve import resolve
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "email": {"type": "string", "format": "email", "maxLength": 30},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 4},
    {
        "anyOf": [
            {"type": "null"},
            {"$ref": "#/$defs/point"},
        ],
        "$defs": {
            "point": {
                "type": "object",
                "properties": {
                    "x": {"type": "number", "minimum": -1, "maximum": 1},
                    "when": {"type": "string", "format": "date"},
                },
                "required": ["x", "when"],
                "additionalProperties": False,
            }
        },
    },
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
]
HOSTILE = Grammar(GrammarKind.REGEX, "(")


def grammar_of(schema: dict[str, Any]) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


async def answers(stack: Stack, prompt: tuple[int, ...], **params: Any) -> list[list[int]]:
    """An answer for each schema, all together, and beside them a request that must fail."""
    settings = {"ignore_eos": False, "temperature": 1.0, **params}
    hostile = stack.submit("hostile", prompt, 400, grammar=HOSTILE, **settings)
    streams = [
        stack.submit(f"s{i}", prompt, 400, grammar=grammar_of(schema), **settings)
        for i, schema in enumerate(SCHEMAS)
    ]
    with pytest.raises(InvalidRequest, match="regular expression"):
        await collect(hostile)
    found = [tokens for tokens, _ in await asyncio.gather(*map(collect, streams))]
    await stack.until_all_free()
    return found


def check(found: list[list[int]], tokenizer: Tokenizer, eos_token_ids: frozenset[int]) -> None:
    for tokens, schema in zip(found, SCHEMAS, strict=True):
        assert tokens[-1] in eos_token_ids
        jsonschema.validate(json.loads(tokenizer.decode(tokens[:-1])), schema)


async def test_mock_answers_are_valid_and_as_expected() -> None:
    model = resolve("mock")
    prompt = tuple(model.tokenizer().encode("some json, please"))
    async with running_stack(1, 1) as stack:
        found = await answers(stack, prompt, seed=5)
    check(found, model.tokenizer(), model.config.eos_token_ids)
    sampling = {"ignore_eos": False, "temperature": 1.0, "seed": 5}
    for tokens, schema in zip(found, SCHEMAS, strict=True):
        grammar = grammar_of(schema)
        assert tokens == expected_mock_tokens(prompt, len(tokens), grammar=grammar, **sampling)


@pytest.mark.model
@pytest.mark.timeout(600)
async def test_the_models_answers_are_valid() -> None:
    model = resolve("default")
    tokenizer = model.tokenizer()
    ask = [{"role": "user", "content": "Describe a person, as JSON."}]
    prompt = tuple(tokenizer.encode(tokenizer.apply_chat_template(ask)))
    async with running_stack(
        1, 1, "--dtype=float32", model="default", devices=["cpu:0", "cpu:1"]
    ) as stack:
        found = await answers(stack, prompt, seed=1)
    check(found, tokenizer, model.config.eos_token_ids)
    print([tokenizer.decode(tokens) for tokens in found])
