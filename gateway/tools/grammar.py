"""Grammars of calls, in llguidance's dialect of Lark: each call matches its tool's parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gateway.tools.syntax import CallSyntax
from gateway.tools.tool import Tool, ToolUse
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

Json = dict[str, Any]

# How the templates write JSON. No other white space: a small model would go on with it for ever.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tool_grammar(
    use: ToolUse, syntax: CallSyntax, opening_id: int | None, answer: Grammar | None
) -> Grammar | None:
    """What the answer of a request with tools must look like; None if it is free.

    `opening_id` is the token that the syntax's opening is, if it is a special one. `answer`, a JSON
    schema, is for an answer without calls. Raises `InvalidRequest` for a tool whose arguments would
    be no object.
    """
    if use.forced:
        start = "calls"
    elif answer is not None:
        start = "calls | answer"
    elif any(tool.strict for tool in use.tools):
        start = _free_start(syntax, use.several, opening_id)
    else:
        return None
    rules = [f"start: {start}", *_call_rules(use, syntax, opening_id)]
    if answer is not None:
        schema = {**json.loads(answer.source), "x-guidance": JSON_STYLE}
        rules.append(f"answer: %json {json.dumps(schema)}")
    return Grammar(GrammarKind.LARK, "\n".join(rules) + "\n")


def quoted(text: str) -> str:
    """A text as a Lark string. ASCII, since the lexer takes no control characters, DEL included."""
    return json.dumps(text)


def _call_rules(use: ToolUse, syntax: CallSyntax, opening_id: int | None) -> list[str]:
    tools = use.callable
    names = " | ".join(f"call_{index}" for index in range(len(tools)))
    return [
        f"calls: {_calls(syntax, use.several, opening_id)}",
        f"call: {names}",
        *(_call_rule(index, tool, syntax) for index, tool in enumerate(tools)),
        *(f"arguments_{index}: %json {_schema(tool, use)}" for index, tool in enumerate(tools)),
    ]


def _call_rule(index: int, tool: Tool, syntax: CallSyntax) -> str:
    # Cut where JSON's own tokens end, so that an answer in JSON may begin alike.
    head = ("{", '"name"', ": ", f'"{tool.name}"', ", ", f'"{syntax.arguments_key}"', ": ")
    return f'call_{index}: {" ".join(map(quoted, head))} arguments_{index} "}}"'


def _schema(tool: Tool, use: ToolUse) -> str:
    schema = _object_schema(tool) if tool.strict or use.forced else {"type": "object"}
    return json.dumps({**schema, "x-guidance": JSON_STYLE})


def _object_schema(tool: Tool) -> Json:
    """The tool's parameters, which may allow other values as well, as a schema of objects alone:
    only with an object is a text a call. Whatever else the schema says holds besides its type."""
    schema: Json = json.loads(tool.parameters)
    types = schema.get("type", "object")
    if "object" not in (types if isinstance(types, list) else [types]):
        raise InvalidRequest(
            f"tools: the parameters of {tool.name} must be a schema of an object", param="tools"
        )
    return {**schema, "type": "object"}


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
