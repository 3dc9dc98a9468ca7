"""The grammars of calls, followed by the library that the engines use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

import tandem.artifacts
from gateway import grammars
from gateway.tools.grammar import tool_grammar
from gateway.tools.parser import ToolCallParser
from gateway.tools.schema import bare
from gateway.tools.syntax import HERMES, LLAMA, MISTRAL
from gateway.tools.tool import Tool, ToolMode, ToolUse
from tandem.artifacts.grammar_text import invalid
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar

A = Tool(
    "a",
    "",
    '{"type":"object","properties":{"x":{"$ref":"#/$defs/n"}},"required":["x"],'
    '"additionalProperties":false,"$defs":{"n":{"type":"integer"}}}',
)
B = Tool("b", "", '{"type":"object","properties":{},"additionalProperties":false}')
STRICT = Tool("a", "", A.parameters, strict=True)
OPENING_ID = 259


@pytest.fixture(scope="module")
def vocabulary() -> LLTokenizer:
    path = Path(tandem.artifacts.__file__).parent / "mock" / "tokenizer.json"
    return LLTokenizer(path.read_text(), n_vocab=260, eos_token=256)


def follows(
    vocabulary: LLTokenizer, grammar: Grammar | None, tokens: list[int]
) -> tuple[bool, bool]:
    """Whether the grammar allows the tokens, and whether it may end there."""
    assert grammar is not None
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar.source))
    assert not matcher.is_error(), matcher.get_error()
    allowed = matcher.try_consume_tokens(tokens) == len(tokens)
    return allowed, allowed and matcher.is_accepting()


def tokens(text: str) -> list[int]:
    before, found, after = text.partition("[TOOL_CALLS]")
    return [*before.encode(), *([OPENING_ID] if found else []), *after.encode()]


GOOD = {
    HERMES: '<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>',
    LLAMA: '{"name": "a", "parameters": {"x": 1}}',
    MISTRAL: '[TOOL_CALLS][{"name": "a", "arguments": {"x": 1}}]',
}
TWO = {
    HERMES: GOOD[HERMES] + '\n<tool_call>\n{"name": "b", "arguments": {}}\n</tool_call>',
    LLAMA: GOOD[LLAMA] + '; {"name": "b", "parameters": {}}',
    MISTRAL: GOOD[MISTRAL][:-1] + ', {"name": "b", "arguments": {}}]',
}
SYNTAXES = pytest.mark.parametrize("syntax", [HERMES, LLAMA, MISTRAL], ids=lambda each: each.name)


@SYNTAXES
def test_a_required_call_is_a_valid_one(vocabulary, syntax):
    use = ToolUse((A, B), ToolMode.REQUIRED)
    grammar = tool_grammar(use, syntax, OPENING_ID, None)
    assert follows(vocabulary, grammar, tokens(GOOD[syntax])) == (True, True)
    assert follows(vocabulary, grammar, tokens(TWO[syntax])) == (True, True)
    assert not follows(vocabulary, grammar, tokens("No."))[0]
    assert not follows(vocabulary, grammar, tokens(GOOD[syntax].replace("1", '"1"')))[0]
    assert not follows(vocabulary, grammar, tokens(GOOD[syntax].replace('"a"', '"c"')))[0]
    assert not follows(vocabulary, grammar, [])[1]


@SYNTAXES
@pytest.mark.parametrize("alone", [{"parallel": False}, {"only": "a"}], ids=str)
def test_without_parallel_or_of_a_named_tool_there_is_one_call(vocabulary, syntax, alone):
    grammar = tool_grammar(ToolUse((A, B), ToolMode.REQUIRED, **alone), syntax, OPENING_ID, None)
    assert follows(vocabulary, grammar, tokens(GOOD[syntax])) == (True, True)
    assert not follows(vocabulary, grammar, tokens(TWO[syntax]))[0]
    again = TWO[syntax].replace('"b"', '"a"').replace("{}", '{"x": 1}')
    assert not follows(vocabulary, grammar, tokens(again))[0]


@SYNTAXES
def test_a_named_tool_is_called_and_no_other(vocabulary, syntax):
    grammar = tool_grammar(ToolUse((A, B), only="b"), syntax, OPENING_ID, None)
    call = GOOD[syntax].replace('"a"', '"b"').replace('"x": 1', "")
    assert follows(vocabulary, grammar, tokens(call)) == (True, True)
    assert not follows(vocabulary, grammar, tokens(GOOD[syntax]))[0]


NO_OBJECTS = ["5", "null", "[]", '"s"', "true"]


@SYNTAXES
@pytest.mark.parametrize("strict", [False, True], ids=["required", "strict"])
@pytest.mark.parametrize(
    "parameters",
    [
        "{}",
        '{"properties":{"x":{"type":"integer"}}}',
        '{"type":["object","null"],"properties":{"x":{"type":"integer"}}}',
        '{"anyOf":[{"type":"null"},{"type":"object","properties":{"x":{"type":"integer"}}}]}',
        '{"allOf":[{"properties":{"x":{"type":"integer"}}}]}',
        '{"enum":[5,null,{"x":1}]}',
        '{"$ref":"#/$defs/n","$defs":{"n":{"type":["object","null"]}}}',
        '{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/n",'
        '"definitions":{"n":{"type":["object","null"]}}}',
        '{"$ref":"#/$defs/n","$defs":{"n":{"properties":{"y":{"$ref":"#/$defs/n"}}}}}',
    ],
)
def test_arguments_are_objects_whatever_their_schema_allows(vocabulary, syntax, strict, parameters):
    mode = ToolMode.AUTO if strict else ToolMode.REQUIRED
    use = ToolUse((Tool("a", "", parameters, strict),), mode)
    grammar = tool_grammar(use, syntax, OPENING_ID, None)
    assert follows(vocabulary, grammar, tokens(GOOD[syntax])) == (True, True)
    for value in NO_OBJECTS:
        call = GOOD[syntax].replace('{"x": 1}', value)
        assert not follows(vocabulary, grammar, tokens(call))[0]


@pytest.mark.parametrize("types", ['"string"', "[]", '["null","array"]', "5", "null"])
@pytest.mark.parametrize("use", [{"mode": ToolMode.REQUIRED}, {"only": "a"}, {}], ids=str)
def test_a_schema_of_no_object_is_refused(types, use):
    tool = Tool("a", "", f'{{"type":{types}}}', strict=not use)
    with pytest.raises(InvalidRequest, match="the parameters of a must be") as caught:
        tool_grammar(ToolUse((tool, B), **use), HERMES, None, None)
    assert caught.value.param == "tools"


def test_what_only_describes_takes_no_room(vocabulary):
    words = {"title": "t", "description": "d" * 20_000, "default": 5, "examples": [5]}
    n = {"type": "integer", **words}
    schema = {
        "type": "object",
        "properties": {"x": n, "y": {"anyOf": [n, {"type": "array", "items": n}]}},
        "$defs": {"n": n},
        "additionalProperties": {"$ref": "#/$defs/n"},
        **words,
    }
    use = ToolUse((Tool("a", "", json.dumps(schema)), B), ToolMode.REQUIRED)
    grammar = tool_grammar(use, HERMES, None, None)
    assert grammar is not None and len(grammar.source) < 2_000
    assert follows(vocabulary, grammar, tokens(GOOD[HERMES])) == (True, True)
    assert not follows(vocabulary, grammar, tokens(GOOD[HERMES].replace("1", '"1"')))[0]


def test_properties_and_values_of_such_names_stay():
    schema = {
        "properties": {"description": {"type": "string", "description": "-"}, "title": True},
        "patternProperties": {"default": {"title": "-"}},
        "dependentRequired": {"title": ["description"]},
        "dependencies": {"title": {"title": "-"}, "default": ["title"]},
        "required": ["title"],
        "anyOf": [{"const": {"title": "x"}}, {"enum": [{"default": 1}], "default": 1}],
    }
    assert bare(schema) == {
        "properties": {"description": {"type": "string"}, "title": True},
        "patternProperties": {"default": {}},
        "dependentRequired": {"title": ["description"]},
        "dependencies": {"title": {}, "default": ["title"]},
        "required": ["title"],
        "anyOf": [{"const": {"title": "x"}}, {"enum": [{"default": 1}]}],
    }


def test_of_schemas_that_are_too_long_together_the_largest_are_named():
    lengths = {"a": 300, "b": 40_000, "c": 20_000, "d": 10_000}
    tools = tuple(
        Tool(name, "", json.dumps({"enum": [{"x": "x" * length}]}))
        for name, length in lengths.items()
    )
    assert tool_grammar(ToolUse(tools, only="b"), HERMES, None, None)
    with pytest.raises(InvalidRequest, match=r"at most 65536 .* b 4\d+, c 2\d+, d 1\d+$") as caught:
        tool_grammar(ToolUse(tools, ToolMode.REQUIRED), HERMES, None, None)
    assert caught.value.param == "tools"


@SYNTAXES
def test_strict_tools_leave_text_free_and_calls_valid(vocabulary, syntax):
    grammar = tool_grammar(ToolUse((STRICT, B)), syntax, OPENING_ID, None)
    for text in ("", "Hello, {x}.", GOOD[syntax], TWO[syntax]):
        assert follows(vocabulary, grammar, tokens(text)) == (True, True)
    assert not follows(vocabulary, grammar, tokens(GOOD[syntax].replace("1", '"1"')))[0]
    # B is not strict: any object is let pass.
    loose = GOOD[syntax].replace('"a"', '"b"').replace("1", '"1"')
    assert follows(vocabulary, grammar, tokens(loose)) == (True, True)


@pytest.mark.parametrize("syntax", [HERMES, MISTRAL], ids=lambda each: each.name)
def test_text_may_come_before_a_strict_call(vocabulary, syntax):
    grammar = tool_grammar(ToolUse((STRICT,)), syntax, OPENING_ID, None)
    assert follows(vocabulary, grammar, tokens("Let me see.\n" + GOOD[syntax])) == (True, True)


def test_a_marker_that_is_no_special_token(vocabulary):
    text = list(GOOD[MISTRAL].encode())
    for use in (ToolUse((A,), ToolMode.REQUIRED), ToolUse((STRICT,))):
        grammar = tool_grammar(use, MISTRAL, None, None)
        assert follows(vocabulary, grammar, text) == (True, True)
        assert not follows(vocabulary, grammar, text[:12] + list(b"[5]"))[0]


@SYNTAXES
def test_with_an_answers_schema_it_is_a_call_or_an_answer(vocabulary, syntax):
    answer = grammars.json_schema('{"type":"object","required":["y"]}', "response_format")
    grammar = tool_grammar(ToolUse((A,)), syntax, OPENING_ID, answer)
    assert follows(vocabulary, grammar, tokens(GOOD[syntax])) == (True, True)
    assert follows(vocabulary, grammar, tokens('{"y": 5}')) == (True, True)
    assert not follows(vocabulary, grammar, tokens("Hello"))[0]


def test_who_offers_tools_is_not_told_of_lark():
    grammar = tool_grammar(ToolUse((A,), ToolMode.REQUIRED), HERMES, None, None)
    assert grammar is not None
    assert invalid(grammar, "is too complex").message == "the grammar is too complex"


def test_tools_that_may_be_called_at_will_are_not_constrained():
    assert tool_grammar(ToolUse((A, B)), HERMES, None, None) is None


@SYNTAXES
def test_what_the_grammar_allows_is_what_the_parser_finds(syntax):
    parser = ToolCallParser(syntax, ("a", "b"))
    parsed = parser.push(TWO[syntax])
    assert parsed.content == ""
    assert [call.name for call in parsed.calls if call.id] == ["a", "b"]


@pytest.mark.parametrize(
    "text", ["a b", 'é\n\t"x\\', "\x00\x7f\u2028", "💥", "a/b(c)[d]{1}*+?|^$", "%x"]
)
def test_any_text_can_be_a_choice(vocabulary, text):
    grammar = grammars.one_of([text, "zzz"], "guided_choice")
    assert follows(vocabulary, grammar, list(text.encode())) == (True, True)
    assert follows(vocabulary, grammar, list(b"zzz")) == (True, True)
    assert not follows(vocabulary, grammar, list(b"y"))[0]
