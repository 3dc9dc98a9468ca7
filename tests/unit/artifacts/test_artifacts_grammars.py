import json
from typing import Any

import pytest

from tandem.artifacts.grammars import GrammarCompiler, GrammarMatcher
from tandem.artifacts.resolve import resolve
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

MOCK = resolve("mock")
EOS = 256
COMPILER = GrammarCompiler(MOCK.tokenizer(), MOCK.config.vocab_size, frozenset({EOS}))


def json_schema(schema: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def allowed(matcher: GrammarMatcher) -> set[int]:
    return set(matcher.mask().nonzero()[0].tolist())


def after(grammar: Grammar, text: str) -> set[int]:
    """The tokens allowed after a text."""
    matcher = COMPILER.matcher(grammar)
    matcher.advance(list(text.encode()))
    return allowed(matcher)


def test_an_object_has_the_separators_of_json_dumps() -> None:
    grammar = json_schema(
        {"type": "object", "properties": {"a": {"enum": [1]}, "b": {}}, "required": ["a", "b"]}
    )
    COMPILER.check(grammar)
    assert after(grammar, "") == {ord("{")}
    assert after(grammar, '{"a"') == {ord(":")}
    assert after(grammar, '{"a":') == {ord(" ")}
    assert after(grammar, '{"a": 1,') == {ord(" ")}


def test_it_ends_exactly_where_it_may() -> None:
    regex = Grammar(GrammarKind.REGEX, "ab{0,2}")
    assert after(regex, "") == {ord("a")}
    assert after(regex, "a") == {ord("b"), EOS}
    assert after(regex, "abb") == {EOS}
    matcher = COMPILER.matcher(regex)
    matcher.advance([*b"abb", EOS])
    assert allowed(matcher) == {EOS}
    matcher.advance([EOS, EOS])
    assert allowed(matcher) == {EOS}


def test_lark_with_a_schema_inside() -> None:
    lark = Grammar(GrammarKind.LARK, 'start: "<" %json {"type": "boolean"} ">"')
    COMPILER.check(lark)
    assert after(lark, "<") == {ord("t"), ord("f")}
    assert after(lark, "<true>") == {EOS}


def test_masks_are_those_of_each_matcher() -> None:
    regexes = [COMPILER.matcher(Grammar(GrammarKind.REGEX, text)) for text in ("a", "b+", "[x-z]")]
    masks = COMPILER.masks(regexes)
    assert [mask.nonzero()[0].tolist() for mask in masks] == [[97], [98], [120, 121, 122]]
    assert COMPILER.masks([]) == []


def test_a_token_that_is_not_allowed_is_refused() -> None:
    matcher = COMPILER.matcher(Grammar(GrammarKind.REGEX, "ab"))
    with pytest.raises(InvalidRequest, match="does not allow what was generated"):
        matcher.advance(list(b"ac"))


def test_a_grammar_may_grow_too_complex_on_the_way() -> None:
    ambiguous = Grammar(GrammarKind.LARK, 'start: start start | "a"')
    COMPILER.check(ambiguous)
    matcher = COMPILER.matcher(ambiguous)
    with pytest.raises(InvalidRequest, match="too complex for the text that was generated"):
        for _ in range(1000):
            assert ord("a") in allowed(matcher)
            matcher.advance([ord("a")])


@pytest.mark.parametrize("source", [" ", "\n"])
def test_white_space_is_a_regular_expression(source: str) -> None:
    grammar = Grammar(GrammarKind.REGEX, source)
    COMPILER.check(grammar)
    assert allowed(COMPILER.matcher(grammar)) == {ord(source)}
    for kind in GrammarKind:
        with pytest.raises(InvalidRequest, match="must not be empty"):
            COMPILER.check(Grammar(kind, "" if kind is GrammarKind.REGEX else source))


def test_an_end_that_the_tokenizer_lacks_is_none() -> None:
    compiler = GrammarCompiler(MOCK.tokenizer(), 400, frozenset({256, 300}))
    matcher = compiler.matcher(Grammar(GrammarKind.REGEX, "a"))
    matcher.advance(b"a")
    assert allowed(matcher) == {256}


@pytest.mark.parametrize("eos_token_ids", [frozenset(), frozenset({300})])
def test_a_model_without_an_end_has_no_grammars(eos_token_ids: frozenset[int]) -> None:
    compiler = GrammarCompiler(MOCK.tokenizer(), 400, eos_token_ids)
    with pytest.raises(InvalidRequest, match="no end-of-sequence token"):
        compiler.matcher(Grammar(GrammarKind.REGEX, "a"))
