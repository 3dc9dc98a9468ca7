"""Calls in generated text, however it is cut into pieces."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tools.json_scan import ObjectScanner
from gateway.tools.parser import MAX_HEAD_CHARS, ToolCallParser
from gateway.tools.syntax import HERMES, LLAMA, MISTRAL, CallSyntax

NAMES = ("f", "get_weather")


def parse(
    syntax: CallSyntax, pieces: list[str], max_calls: int | None = None
) -> tuple[str, list[tuple[str, str]]]:
    """(content, calls), each call (name, arguments)."""
    ids = count()
    parser = ToolCallParser(syntax, NAMES, max_calls, lambda: f"id{next(ids)}")
    content, calls = "", []
    for parsed in [*map(parser.push, pieces), parser.flush()]:
        content += parsed.content
        for call in parsed.calls:
            if call.id:
                assert (call.index, call.id) == (len(calls), f"id{len(calls)}")
                calls.append([call.name, ""])
            assert call.index == len(calls) - 1
            calls[-1][1] += call.arguments
    assert parser.num_calls == len(calls)
    return content, [(name, arguments) for name, arguments in calls]


F1 = '{"name": "f", "arguments": {"a": 1}}'
F2 = '{"name":"get_weather","arguments":{"city":"Par}is\\"","x":{"y":[]}}}'
P1 = F1.replace("arguments", "parameters")
P2 = F2.replace("arguments", "parameters")
CALL_1 = ("f", '{"a": 1}')
CALL_2 = ("get_weather", '{"city":"Par}is\\"","x":{"y":[]}}')

CASES = [
    (HERMES, "plain text", "plain text", []),
    (HERMES, " text with space\n", " text with space\n", []),
    (HERMES, f"<tool_call>\n{F1}\n</tool_call>", "", [CALL_1]),
    (HERMES, f"I look.\n\n<tool_call>{F2}</tool_call>", "I look.", [CALL_2]),
    (
        HERMES,
        f"<tool_call>\n{F1}\n</tool_call>\n<tool_call>\n{F2}\n</tool_call>\n",
        "",
        [CALL_1, CALL_2],
    ),
    (HERMES, f"<tool_call>{F1}</tool_call> and so on", " and so on", [CALL_1]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"a": 1} , "id": "}{", "b": {}}</tool_call> so',
        " so",
        [CALL_1],
    ),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> so', " so", [CALL_1]),
    (HERMES, "<tool_cal no, <tool_call", "<tool_cal no, <tool_call", []),
    (HERMES, "<tool_call>\nnonsense", "<tool_call>\nnonsense", []),
    (HERMES, '<tool_call>{"name": "g", "arguments": {}}', None, []),
    (HERMES, '<tool_call>{"name": 5, "arguments": {}}', None, []),
    (HERMES, "<tool_call>{'name': 'f'}</tool_call>", None, []),
    (HERMES, '<tool_call>{"name": "f"', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1', "", [("f", '{"a": 1')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}', "", [CALL_1]),
    (
        HERMES,
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call> x',
        " x",
        [CALL_1],
    ),
    (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        [CALL_1],
    ),
    # Under the other syntax's key, at once or in any order.
    (HERMES, f"<tool_call>{P1}</tool_call>", "", [CALL_1]),
    (HERMES, '<tool_call>{"parameters": {"a": 1}, "name": "f"}</tool_call>', "", [CALL_1]),
    (
        HERMES,
        '<tool_call>{"name": "f", "parameters": "{\\"a\\": 1}"}</tool_call>',
        "",
        [CALL_1],
    ),
    (LLAMA, F1, "", [CALL_1]),
    (LLAMA, '{"arguments": {"a": 1}, "name": "f"}', "", [CALL_1]),
    (LLAMA, '{"type": "function", "name": "f", "arguments": {"a": 1}}', "", [CALL_1]),
    (LLAMA, '{"type": "function", "name": "f"}', "", [("f", "{}")]),
    (MISTRAL, f"[TOOL_CALLS] [{P1}]", "", [CALL_1]),
    # What may be arguments is not dropped, and what are none is not passed on.
    (HERMES, '<tool_call>{"name": "f", "args": {"a": 1}}</tool_call>', None, []),
    (HERMES, '<tool_call>{"name": "f", "a": 1}</tool_call>', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": "a = 1"}</tool_call>', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": "}</tool_call>', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": null}</tool_call>', None, []),
    (LLAMA, "plain {text}", "plain {text}", []),
    (LLAMA, P1, "", [CALL_1]),
    (LLAMA, f" <|python_tag|>{P1}; {P2}", "", [CALL_1, CALL_2]),
    (LLAMA, '{"answer": 5} is it', '{"answer": 5} is it', []),
    (LLAMA, '\n {"answer": 5}', '\n {"answer": 5}', []),
    (LLAMA, '<|python_tag|> {"answer": 5}', '<|python_tag|> {"answer": 5}', []),
    (LLAMA, "<|python", "<|python", []),
    (LLAMA, "<|python_tag|> ", "<|python_tag|> ", []),
    (MISTRAL, f"[TOOL_CALLS] [{F1}]", "", [CALL_1]),
    (MISTRAL, f"Wait.[TOOL_CALLS][{F1}, {F2}]", "Wait.", [CALL_1, CALL_2]),
    (MISTRAL, "[TOOL_CALLS] {", "[TOOL_CALLS] {", []),
    (MISTRAL, "[TOOL_CALLS] [5]", "[TOOL_CALLS] [5]", []),
]


@pytest.mark.parametrize(("syntax", "text", "content", "calls"), CASES)
@pytest.mark.parametrize("length", [1, 3, 1000])
def test_calls_are_found_however_the_text_is_cut(syntax, text, content, calls, length):
    pieces = [text[start : start + length] for start in range(0, len(text), length)]
    # What is no call comes out as it is.
    assert parse(syntax, pieces) == (text if content is None else content, calls)


def test_arguments_are_passed_on_as_they_come():
    parser = ToolCallParser(HERMES, NAMES)
    assert not parser.push('<tool_call>{"name": "f", "argum').calls
    (head,) = parser.push('ents": ').calls or parser.push("{").calls[:1]
    assert (head.name, head.arguments) == ("f", "")
    assert [call.arguments for call in parser.push('"a": ').calls] == ['"a": ']
    assert [call.arguments for call in parser.push("12}}").calls] == ["12}"]
    assert not parser.push("</tool_call>").calls


class Counted(str):
    """A text that counts the characters which are looked at or copied."""

    num_touched = 0

    def _touch(self, value: str) -> Counted:
        Counted.num_touched += len(self)
        return Counted(value)

    def __add__(self, other: str) -> Counted:
        return self._touch(str.__add__(self, other))

    def __radd__(self, other: str) -> Counted:
        return self._touch(other + str(self))

    def __getitem__(self, key: slice) -> Counted:  # type: ignore[override]
        return self._touch(str.__getitem__(self, key))

    def lstrip(self, chars: str | None = None, /) -> Counted:
        return self._touch(str.lstrip(self, chars))

    def rstrip(self, chars: str | None = None, /) -> Counted:
        return self._touch(str.rstrip(self, chars))

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = map(self._touch, str.partition(self, sep))
        return before, found, after

    def removeprefix(self, prefix: str, /) -> Counted:
        return self._touch(str.removeprefix(self, prefix))


@pytest.mark.parametrize(
    ("syntax", "before", "after"),
    [
        (HERMES, "", "text"),
        (HERMES, "text", "text"),
        (HERMES, "<tool_call>", "text"),
        (HERMES, "<tool_call>{", "}"),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}', "}"),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}', "</tool_call>"),
        (LLAMA, "", "text"),
        (LLAMA, "text", "text"),
        (LLAMA, "<|python_tag|>", "text"),
        (LLAMA, '{"name": "f", "parameters": {}}', "; " + P1),
        (MISTRAL, "[TOOL_CALLS]", "[5]"),
        (MISTRAL, "[TOOL_CALLS][", "5]"),
        (MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {}}', "]"),
    ],
)
def test_space_is_looked_at_once(syntax, before, after):
    num_spaces = 20_000
    parser = ToolCallParser(syntax, NAMES)
    parser.push(Counted(before))
    Counted.num_touched = 0
    content = [parser.push(Counted(" ")).content for _ in range(num_spaces)]
    content.append(parser.push(Counted(after)).content)
    # A head is looked at until it is too long for one.
    assert Counted.num_touched < 20 * num_spaces + 10 * MAX_HEAD_CHARS**2
    content.append(parser.flush().content)
    if not parser.num_calls:
        text = before + " " * num_spaces + after
        assert text.endswith("".join(content))


def test_only_so_many_calls():
    text = f"<tool_call>{F1}</tool_call><tool_call>{F2}</tool_call> more"
    assert parse(HERMES, [text], max_calls=1) == ("", [CALL_1])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), json_values, max_size=4)


@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL]),
    st.lists(st.tuples(st.sampled_from(NAMES), objects), min_size=1, max_size=3),
    st.booleans(),
    st.data(),
)
def test_any_arguments_come_back(syntax, wanted, ascii_only, data):
    written = [
        json.dumps({"name": name, syntax.arguments_key: arguments}, ensure_ascii=ascii_only)
        for name, arguments in wanted
    ]
    if syntax is HERMES:
        text = "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in written)
    elif syntax is LLAMA:
        text = "; ".join(written)
    else:
        text = f"[TOOL_CALLS] [{', '.join(written)}]"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
    content, calls = parse(syntax, [text[start:end] for start, end in bounds])
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in calls] == wanted


@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL]), st.text(alphabet='{}[]<>"\\:, fano_tlcTOOLS_CALLS')
)
def test_no_text_breaks_the_parser(syntax, text):
    parse(syntax, list(text))
    parse(syntax, [text])


@given(objects, st.text(), st.data())
def test_the_scanner_finds_the_end(value, rest, data):
    written = json.dumps(value)
    text = written + rest
    cut = data.draw(st.integers(0, len(written) - 1))
    scanner = ObjectScanner()
    assert scanner.find_end(text[:cut]) is None
    assert scanner.find_end(text[cut:]) == len(written) - cut
