"""What is done to a client's grammar before the caps hold takes no longer than the text is long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import thread_time
from unittest.mock import Mock

import pytest

from tandem.artifacts import grammar_trial
from tandem.artifacts.grammar_errors import explain
from tandem.artifacts.grammar_text import MAX_SOURCE_BYTES, lark_text
from tandem.artifacts.grammar_trial import GrammarTrials
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

# A text eight times as long takes eight times as long, or 64 times if all of it is read again for
# each of its characters.
GROWTH = 8
MAX_FACTOR = 3 * GROWTH

# Repeated, these open what never closes.
UNCLOSED = {
    GrammarKind.JSON_SCHEMA: ["[", "{", '"', '"\\', '\\"', '"[', '"\\"', '"\\\n'],
    GrammarKind.REGEX: ["[", "[^", "[]", "[^]", "[\\", "\\[", "[\\]", "(", "(?", "(["],
    GrammarKind.LARK: [
        *("(", "[", "{", "%json {", "/", "//", "/\\", "/a\\/", "a/a\n", "/[", '/"', '"/'),
        *('"', '"\\', '"\\"', '"\n', '"\\\n'),
    ],
}
CASES = [(kind, unit) for kind, units in UNCLOSED.items() for unit in units]


def cost(work: Callable[[], object]) -> float:
    """Seconds of this thread's, without those that others took from it."""

    def once() -> float:
        start = thread_time()
        work()
        return thread_time() - start

    return min(once() for _ in range(3))


def growth(work: Callable[[str], object], text: Callable[[int], str]) -> float:
    """How many times as long a text takes that is `GROWTH` times as long, of those of full size."""
    long = text(MAX_SOURCE_BYTES)
    short = long[: MAX_SOURCE_BYTES // GROWTH]
    return cost(lambda: work(long)) / cost(lambda: work(short))


@pytest.mark.parametrize("lead", ["", "a", '"', "/", "\\"])
@pytest.mark.parametrize(("kind", "unit"), CASES)
def test_what_never_closes_is_read_once(kind: GrammarKind, unit: str, lead: str) -> None:
    def read(source: str) -> None:
        with suppress(InvalidRequest):
            lark_text(Grammar(kind, source))

    def text(length: int) -> str:
        return (lead + unit * length)[:length]

    assert growth(read, text) < MAX_FACTOR


@pytest.mark.parametrize(
    "unit", ["1", "regex parse error:", "regex parse error:1", "Pointer '", "at 1(1", "Resource '"]
)
def test_a_message_that_repeats_the_clients_text_is_read_once(unit: str) -> None:
    def text(length: int) -> str:
        return ("unknown grammar @" + unit * length)[:length]

    assert growth(explain, text) < MAX_FACTOR


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (GrammarKind.JSON_SCHEMA, '{"const": "' + "\\\\[" * 100 + '"}'),
        (GrammarKind.JSON_SCHEMA, '{"const": "\\"' + "[" * 100 + '"}'),
        (GrammarKind.REGEX, "[]" + "(" * 100 + "]"),
        (GrammarKind.REGEX, "[^]" + "(" * 100 + "]"),
        (GrammarKind.REGEX, "[\\]" + "(" * 100 + "]"),
        (GrammarKind.LARK, 'start: "\\"' + "(" * 100 + '"'),
        (GrammarKind.LARK, "start: /\\/" + "(" * 100 + "/"),
    ],
)
def test_brackets_behind_an_escape_are_no_nesting(kind: GrammarKind, source: str) -> None:
    lark_text(Grammar(kind, source))


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (GrammarKind.JSON_SCHEMA, '{"a": "b\\\\"' + "[" * 65),
        (GrammarKind.REGEX, "[a]\\]" + "(" * 65),
        (GrammarKind.LARK, 'start: "a" /b/ ' + "(" * 65),
        # A line's end is that of a string that was not closed, and of a comment.
        (GrammarKind.LARK, 'start: "a\n // "\n' + "(" * 65),
    ],
)
def test_brackets_behind_what_has_closed_are(kind: GrammarKind, source: str) -> None:
    with pytest.raises(InvalidRequest, match="64 levels"):
        lark_text(Grammar(kind, source))


@pytest.mark.parametrize("message", [b'""', b'"it is none"'])
@pytest.mark.parametrize("num_places", [1, 4])
def test_of_a_burst_over_one_grammar_one_is_tried(
    num_places: int, message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many trials may run at a time: the others wait for its verdict."""
    monkeypatch.setattr(grammar_trial, "MAX_AT_ONCE", num_places)
    trials, grammar = GrammarTrials((), 260), Grammar(GrammarKind.REGEX, "a")
    let, num_trials = threading.Event(), 0
    all_have_come = threading.Barrier(5)

    def read(grammar: Grammar) -> str:
        all_have_come.wait(10)
        return lark_text(grammar)

    def run(*args: object, **kwargs: object) -> object:
        nonlocal num_trials
        num_trials += 1
        assert let.wait(10)
        return grammar_trial.subprocess.CompletedProcess([], 0, stdout=message)

    def refused() -> bool:
        try:
            trials.check(grammar)
        except InvalidRequest:
            return True
        return False

    monkeypatch.setattr(grammar_trial, "lark_text", read)
    monkeypatch.setattr(grammar_trial.subprocess, "run", run)
    with ThreadPoolExecutor(4) as threads:
        checks = [threads.submit(refused) for _ in range(4)]
        all_have_come.wait(10)
        let.set()
        assert {check.result(10) for check in checks} == {message != b'""'}
    assert num_trials == 1


def test_a_grammar_whose_verdict_is_known_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials, grammar = GrammarTrials((), 260), Grammar(GrammarKind.REGEX, "a")
    passed = grammar_trial.subprocess.CompletedProcess([], 0, stdout=b'""')
    monkeypatch.setattr(grammar_trial.subprocess, "run", lambda *_, **__: passed)
    assert not trials.knows(grammar)
    trials.check(grammar)
    monkeypatch.delattr(grammar_trial, "lark_text")
    trials.check(grammar)
    assert trials.knows(grammar)


def test_the_verdict_on_a_grammar_in_use_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are new meanwhile."""
    trials, grammar = GrammarTrials((), 260), Grammar(GrammarKind.REGEX, "a")
    passed = grammar_trial.subprocess.CompletedProcess([], 0, stdout=b'""')
    run = Mock(return_value=passed)
    monkeypatch.setattr(grammar_trial.subprocess, "run", run)
    trials.check(grammar)
    for num in range(grammar_trial.MAX_VERDICTS):
        trials.check(Grammar(GrammarKind.REGEX, f"b{num}"))
        trials.check(grammar)
    assert run.call_count == 1 + grammar_trial.MAX_VERDICTS
