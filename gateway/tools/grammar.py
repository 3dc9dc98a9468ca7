"""Grammars of calls, in llguidance's dialect of Lark: each call matches its tool's parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gateway.tools.schema import Json, arguments_schema, bare
from gateway.tools.syntax import CallSyntax
from gateway.tools.tool import Tool, ToolUse
from tandem.artifacts.grammar_text import MAX_SOURCE_BYTES
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

# How the templates write JSON. No other white space: a small model would go on with it for ever.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Of tools that are too long together, as many are named.
NUM_NAMED = 3


def tool_grammar(
    use: ToolUse, syntax: CallSyntax, opening_id: int | None, answer: Grammar | None
) -> Grammar | None:
    """What the answer of a request with tools must look like; None if it is free.

    `opening_id` is the token that the syntax's opening is, if it is a special one. `answer`, a JSON
    schema, is for an answer without calls. Raises `InvalidRequest` for a tool whose arguments would
    be no object, and for schemas that are too long together. If it is not free, that is work of
    tens of milliseconds.
    """
    if use.forced:
        start = "calls"
    elif answer is not None:
        start = "calls | answer"
    elif not use.is_free:
        start = _free_start(syntax, use.several, opening_id)
    else:
        return None
    schemas = {tool.name: _schema(tool, use) for tool in use.callable}
    rules = [f"start: {start}", *_call_rules(schemas, syntax, use.several, opening_id)]
    if answer is not None:
        rules.append(f"answer: %json {_written(bare(json.loads(answer.source)))}")
    source = "\n".join(rules) + "\n"
    if len(source) > MAX_SOURCE_BYTES:
        raise _too_long(source, schemas)
    return Grammar(GrammarKind.LARK, source)


def quoted(text: str) -> str:
    """A text as a Lark string. ASCII, since the lexer takes no control characters, DEL included."""
    return json.dumps(text)


def _call_rules(
    schemas: Mapping[str, str], syntax: CallSyntax, several: bool, opening_id: int | None
) -> list[str]:
    """`schemas` are the arguments' by the names of the tools that may be called."""
    names = " | ".join(f"call_{index}" for index in range(len(schemas)))
    return [
        f"calls: {_calls(syntax, several, opening_id)}",
        f"call: {names}",
        *(_call_rule(index, name, syntax) for index, name in enumerate(schemas)),
        *(f"arguments_{index}: %json {each}" for index, each in enumerate(schemas.values())),
    ]


def _call_rule(index: int, name: str, syntax: CallSyntax) -> str:
    # Cut where JSON's own tokens end, so that an answer in JSON may begin alike.
    head = ("{", '"name"', ": ", f'"{name}"', ", ", f'"{syntax.arguments_key}"', ": ")
    return f'call_{index}: {" ".join(map(quoted, head))} arguments_{index} "}}"'


def _schema(tool: Tool, use: ToolUse) -> str:
    return _written(arguments_schema(tool) if use.keeps(tool) else {"type": "object"})


def _written(schema: Json) -> str:
    return json.dumps({**schema, "x-guidance": JSON_STYLE}, separators=(",", ":"))


def _too_long(source: str, schemas: Mapping[str, str]) -> InvalidRequest:
    largest = sorted(schemas, key=lambda name: len(schemas[name]), reverse=True)[:NUM_NAMED]
    named = ", ".join(f"{name} {len(schemas[name])}" for name in largest)
    return InvalidRequest(
        f"tools: what an answer must match, without descriptions, must have at most"
        f" {MAX_SOURCE_BYTES} bytes, and has {len(source)}; of the tools: {named}",
        param="tools",
    )


def _calls(syntax: CallSyntax, several: bool, opening_id: int | None) -> str:
    """All calls of an answer, with their marks."""
    if syntax.closing:
        first = f"{quoted(syntax.opening)} {_body(syntax)}"
        return f'{first} ("\\n" {first})*' if several else first
    opening = [_opening(syntax, opening_id)] if syntax.opening else []
    more = f"({quoted(syntax.separator + ' ')} call)*" if several else ""
    return _join([*opening, _mark(syntax.list_opening), "call", more, _mark(syntax.list_closing)])


def _free_start(syntax: CallSyntax, several: bool, opening_id: int | None) -> str:
    """Any text, but what begins as a call is one."""
    if syntax.closing:
        mark = quoted(syntax.opening)
        times = "*" if several else "?"
        escaped = syntax.opening.replace("/", "\\/")
        return (
            f"(opening {_body(syntax)}){times} TAIL\n"
            f"opening[suffix={mark}]: /(?s:.*)/\n"
            f"TAIL: /(?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/"
        )
    if syntax.opening and opening_id is not None:
        return "TEXT? calls?\nTEXT: /(?s:.+)/"
    if syntax.opening:
        escaped = syntax.opening.replace("[", "\\[").replace("]", "\\]")
        return f"TEXT? calls?\nTEXT: /(?s:.+)/ & ~/(?s:.*){escaped}(?s:.*)/"
    return "TEXT? | calls\nTEXT: /\\s*[^{\\s](?s:.*)/"


def _body(syntax: CallSyntax) -> str:
    return f'"\\n" call {quoted(chr(10) + syntax.closing)}'


def _opening(syntax: CallSyntax, opening_id: int | None) -> str:
    return quoted(syntax.opening) if opening_id is None else f"<[{opening_id}]>"


def _mark(text: str) -> str:
    return quoted(text) if text else ""


def _join(parts: Sequence[str]) -> str:
    return " ".join(part for part in parts if part)
