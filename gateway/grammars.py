"""What answers must look like: the forms in which clients say it, and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from gateway.tools.grammar import quoted
from tandem.artifacts.grammar_text import MAX_NESTING, MAX_SOURCE_BYTES
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

ANY_OBJECT = '{"type":"object"}'
MAX_ALTERNATIVES = 1024


class GrammarChecker(Protocol):
    """What knows the grammars that workers can obey. Callable from any thread."""

    def knows(self, grammar: Grammar) -> bool:
        """Whether `check` would have nothing against a grammar, as far as that is known."""
        ...

    def check(self, grammar: Grammar) -> None:
        """Raises `InvalidRequest` that says what is wrong with a grammar."""
        ...


def json_object() -> Grammar:
    """Any JSON object."""
    return Grammar(GrammarKind.JSON_SCHEMA, ANY_OBJECT)


def json_schema(schema: str, param: str) -> Grammar:
    """JSON that matches a schema, itself given as JSON. Raises `InvalidRequest`."""
    check_schema(schema, param)
    return Grammar(GrammarKind.JSON_SCHEMA, schema)


def regex(pattern: str, param: str) -> Grammar:
    """A text that matches a regular expression from its beginning to its end."""
    _check_length(pattern, param)
    return Grammar(GrammarKind.REGEX, pattern)


def lark(source: str, param: str) -> Grammar:
    """A text of a grammar in Lark's notation."""
    _check_length(source, param)
    return Grammar(GrammarKind.LARK, source)


def one_of(texts: Sequence[str], param: str) -> Grammar:
    """One of these texts. Raises `InvalidRequest`."""
    if not 1 <= len(texts) <= MAX_ALTERNATIVES:
        raise InvalidRequest(f"{param} must have 1 to {MAX_ALTERNATIVES} entries", param=param)
    if "" in texts:
        raise InvalidRequest(f"{param} must not contain an empty string", param=param)
    source = "start: " + " | ".join(map(quoted, dict.fromkeys(texts))) + "\n"
    _check_length(source, param)
    return Grammar(GrammarKind.LARK, source)


def schema_text(schema: Mapping[str, Any], param: str) -> str:
    """A schema as text. Raises `InvalidRequest` for one that is too deep."""
    _check_depth(schema, param)
    return orjson.dumps(schema).decode()


def check_schema(schema: str, param: str) -> None:
    """What can be said of a JSON schema without compiling it: that it is JSON, how long and how
    deep. Raises `InvalidRequest`."""
    _check_length(schema, param)
    try:
        parsed = orjson.loads(schema)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"{param}: the schema is not valid JSON", param=param) from None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"{param}: the schema must be a JSON object", param=param)
    _check_depth(parsed, param)


def _check_depth(schema: Mapping[str, Any], param: str) -> None:
    if _is_deeper(schema, MAX_NESTING):
        raise InvalidRequest(
            f"{param}: the schema must be nested at most {MAX_NESTING} deep", param=param
        )


def _is_deeper(value: Any, depth: int) -> bool:
    """Level by level, so that no depth is too much for the stack."""
    level = [value]
    for _ in range(depth):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _check_length(source: str, param: str) -> None:
    if not source:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    if (num_bytes := len(source.encode())) > MAX_SOURCE_BYTES:
        raise InvalidRequest(
            f"{param} must have at most {MAX_SOURCE_BYTES} bytes, and has {num_bytes}", param=param
        )
