"""What answers must look like: the forms in which clients say it, and their limits."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import orjson

from gateway.tools.grammar import quoted
from tandem.artifacts.grammar_text import MAX_NESTING, MAX_SOURCE_BYTES
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

ANY_OBJECT = '{"type":"object"}'
MAX_ALTERNATIVES = 1024
# In which brackets mean themselves.
JSON_STRING = re.compile(rb'"(?:[^"\\]+|\\.)*"')
# A bracket as how much deeper it goes: 1, or -1 as one signed byte.
STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
NO_BRACKETS = bytes({*range(256)}.difference(b"[{]}"))


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
    """A schema as text. Raises `InvalidRequest` for one that is far too deep."""
    try:
        return orjson.dumps(schema).decode()
    except orjson.JSONEncodeError:
        # What else was read from JSON can be written as such.
        raise _too_deep(param) from None


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
    if _is_deeper(schema, MAX_NESTING):
        raise _too_deep(param)


def _is_deeper(text: str, depth: int) -> bool:
    """Whether more brackets are within each other in a JSON text: in few there cannot be."""
    if text.count("{") + text.count("[") <= depth:
        return False
    steps = JSON_STRING.sub(b"", text.encode()).translate(STEPS, NO_BRACKETS)
    return max(accumulate(array("b", steps))) > depth


def _too_deep(param: str) -> InvalidRequest:
    what = f"{param}: the schema must be nested at most {MAX_NESTING} deep"
    return InvalidRequest(what, param=param)


def _check_length(source: str, param: str) -> None:
    if not source:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    if (num_bytes := len(source.encode())) > MAX_SOURCE_BYTES:
        raise InvalidRequest(
            f"{param} must have at most {MAX_SOURCE_BYTES} bytes, and has {num_bytes}", param=param
        )
