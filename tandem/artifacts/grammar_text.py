"""From a client's grammar to llguidance's Lark text: the caps that come before any work.

What is well-formed and within the caps may still be wrong, unsupported or too complex: that only
compiling it tells.
"""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import accumulate
from typing import NoReturn

from llguidance import LLParserLimits, regex_to_lark

from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

MAX_SOURCE_BYTES = 64 * 1024
MAX_NESTING = 64

# As `json.dumps` writes it, and most of what models have read: no other white space, which a small
# model would go on with for ever.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

# Of all tokens that keep within the grammar the model chooses by itself. (Otherwise llguidance
# tokenises text that must come, all of it at every token.)
OPTIONS = '%llguidance {"no_forcing": true}'

# An honest grammar takes a small part of these. They bound a token's work to some milliseconds, and
# what a grammar's states hold, those of all sequences that share them, to about 40 MB.
_LIMITS = partial(
    LLParserLimits,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
# A schema's keys that may come next are items, four each for optional ones. In an ambiguous Lark
# grammar a token costs the square of the items: at 2000 a second, at 500 some milliseconds.
LIMITS = {
    GrammarKind.JSON_SCHEMA: _LIMITS(max_items_in_row=2_000),
    GrammarKind.REGEX: _LIMITS(max_items_in_row=500),
    GrammarKind.LARK: _LIMITS(max_items_in_row=500),
}

# What opens and closes nests, and what holds brackets that do not. Whatever has opened and never
# closes is one match, up to where the text ends: no character is looked at twice.
_JSON_BRACKETS = re.compile(r'"(?:[^"\\]+|\\.?)*"?|[\[{]|[\]}]', re.DOTALL)
# An escape, or a class, in which brackets mean themselves.
_REGEX_BRACKETS = re.compile(r"\\.?|\[\^?\]?(?:[^\]\\]+|\\.?)*\]?|[(]|[)]", re.DOTALL)
# A string, a regular expression (both end with the line) or a comment, in which they need not
# balance.
_LARK_BRACKETS = re.compile(
    r'"(?:[^"\\\n]+|\\.?)*"?|//[^\n]*|/(?:[^/\\\n]+|\\.?)+/?|[(\[{]|[)\]}]', re.DOTALL
)
_STEPS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}


def lark_text(grammar: Grammar) -> str:
    """The grammar as Lark text in llguidance's dialect. Raises `InvalidRequest`."""
    if len(grammar.source.encode()) > MAX_SOURCE_BYTES:
        raise invalid(grammar, f"must have at most {MAX_SOURCE_BYTES} bytes")
    # White space is text that an expression may want.
    source = grammar.source
    if not (source if grammar.kind is GrammarKind.REGEX else source.strip()):
        raise invalid(grammar, "must not be empty")
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            _check_nesting(grammar, _JSON_BRACKETS)
            text = f"start: %json {_json_schema(grammar)}"
        case GrammarKind.REGEX:
            _check_nesting(grammar, _REGEX_BRACKETS)
            text = f"start: /{regex_to_lark(grammar.source, use_ascii='dw')}/"
        case GrammarKind.LARK:
            _check_nesting(grammar, _LARK_BRACKETS)
            text = grammar.source
    return f"{text}\n{OPTIONS}\n"


def invalid(grammar: Grammar, what: str) -> InvalidRequest:
    """The error of a grammar with which something is wrong."""
    name = {
        GrammarKind.JSON_SCHEMA: "JSON schema",
        GrammarKind.REGEX: "regular expression",
        # Or what the gateway made of tools or choices: no client is told of Lark who never used it.
        GrammarKind.LARK: "grammar",
    }[grammar.kind]
    return InvalidRequest(f"the {name} {what}", param="grammar")


def _json_schema(grammar: Grammar) -> str:
    """The schema written anew: one object, in our style."""
    try:
        schema = json.loads(grammar.source, parse_constant=_refuse)
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise invalid(grammar, "must be a JSON object")
        # A key of llguidance's own, by which a schema could ask for another style.
        return json.dumps({**schema, "x-guidance": JSON_STYLE}, allow_nan=False)
    except ValueError as error:
        raise invalid(grammar, "is not valid JSON") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check_nesting(grammar: Grammar, brackets: re.Pattern[str]) -> None:
    """Parsers go a frame deeper for each level, and end the process where the stack ends."""
    steps = (_STEPS.get(match, 0) for match in brackets.findall(grammar.source))
    if max(accumulate(steps), default=0) > MAX_NESTING:
        raise invalid(grammar, f"is nested more than {MAX_NESTING} levels deep")
