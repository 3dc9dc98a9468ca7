"""Hostile grammars end in an error or work, soon, and leave the process alone."""

from __future__ import annotations

import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tandem.artifacts import grammar_trial
from tandem.artifacts.grammar_errors import explain
from tandem.artifacts.grammar_text import MAX_SOURCE_BYTES
from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.core.errors import InvalidRequest, ResourceExhausted, TandemError
from tandem.core.grammar import Grammar, GrammarKind

MOCK = resolve("mock")
EOS = 256
NUM_STEPS = 30


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(MOCK.tokenizer(), MOCK.config.vocab_size, frozenset({EOS}))


def schema(value: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, value if isinstance(value, str) else json.dumps(value))


def regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, source)


def lark(source: str) -> Grammar:
    return Grammar(GrammarKind.LARK, source)


def deep(levels: int) -> str:
    return '{"type":"array","items":' * levels + "{}" + "}" * levels


def chain(wrap: Any, length: int) -> dict[str, Any]:
    """A definition that refers to the next, and so on."""
    links = {f"d{i}": wrap({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    return {"$defs": {**links, f"d{length}": {"type": "null"}}, "$ref": "#/$defs/d0"}


REFUSED = {
    "too long": (schema('"' + "x" * MAX_SOURCE_BYTES + '"'), "at most 65536 bytes"),
    "10k deep": (schema("[" * 10_000 + "]" * 10_000), "64 levels"),
    "deep": (schema(deep(65)), "64 levels"),
    "deep constant": (schema('{"const":' + "[" * 100 + "]" * 100 + "}"), "64 levels"),
    "deep regex": (regex("(" * 200 + "a" + ")" * 200), "64 levels"),
    "deep lark": (lark("start: " + "[" * 5000 + '"a"' + "]" * 5000), "64 levels"),
    "deep schema in lark": (lark(f"start: %json {deep(200)}"), "64 levels"),
    "not JSON": (schema('{"type":'), "not valid JSON"),
    "not an object": (schema("[]"), "must be a JSON object"),
    "NaN": (schema('{"minimum": NaN}'), "not valid JSON"),
    "infinity": (schema('{"minimum": 1e999}'), "not valid JSON"),
    "empty": (regex(""), "must not be empty"),
    "keyword": (schema({"not": {"type": "null"}}), r'not supported: \["not"\]'),
    "format": (schema({"type": "string", "format": "x"}), "unknown format: x"),
    "type": (schema({"type": "x"}), "unknown type: x"),
    "no definition": (schema({"$ref": "#/$defs/x"}), "does not define: /\\$defs/x"),
    "file": (schema({"$ref": "file:///etc/passwd"}), "never fetched"),
    "unsatisfiable": (schema({"minimum": 2, "maximum": 1, "type": "integer"}), "never be"),
    "refers to itself": (schema({"$ref": "#"}), "matches no text"),
    "refer to each other": (
        schema(
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
            | {"$ref": "#/$defs/a"}
        ),
        "matches no text",
    ),
    "look-ahead": (regex("(?=a)b"), "look-around"),
    "back reference": (regex(r"(a)\1"), "backreferences"),
    "bad regex": (regex("a)"), "^the regular expression has an invalid pattern: unopened group$"),
    "bad pattern": (schema({"type": "string", "pattern": "[z-a]"}), "has an invalid pattern: "),
    "overlap": (
        schema({"oneOf": [{"type": "string"}, {"minLength": 2}]}),
        "^the JSON schema uses oneOf for alternatives that may overlap: use anyOf$",
    ),
    "nothing matches": (regex(r"[^\s\S]"), "matches no text"),
    "bad lark": (lark("start: ("), "error at 1"),
    "no start": (lark('foo: "a"'), "no rule named start"),
    "endless rule": (lark("start: start"), "matches no text"),
    "token in itself": (lark('start: T\nT: T "a" | "a"'), "by itself"),
    "unknown token": (lark("start: <|nonsense|>"), "unknown special token"),
    "include": (lark('%import /etc/passwd\nstart: "a"'), "error at 1"),
    # Overflows a thread's stack.
    "chain of rules": (
        lark("start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"'),
        "too complex",
    ),
    # Is not through within minutes.
    "many patterns": (
        schema({"type": "string", "allOf": [{"pattern": f"a.{{{i}}}$"} for i in range(1, 60)]}),
        "too complex",
    ),
    "many patterns in lark": (
        lark("start: T\nT: " + " & ".join(f"/.*a.{{{i}}}/" for i in range(1, 60))),
        "too complex",
    ),
    "doubling tokens": (
        lark("start: T0\n" + "".join(f"T{i}: T{i + 1} T{i + 1}\n" for i in range(60)) + 'T60: "a"'),
        "too complex",
    ),
    "product of choices": (
        schema(
            {
                "allOf": [{"anyOf": [{"minimum": j} for j in range(10)]} for _ in range(8)],
                "type": "number",
            }
        ),
        "too complex",
    ),
    "least common multiple": (
        schema({"type": "integer", "allOf": [{"multipleOf": p} for p in (99991, 99989, 99971)]}),
        "too complex",
    ),
}

# Accepted or not: it must end, here and in the steps that follow.
ENDURED = {
    "tree": schema({"properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}, "type": "object"}),
    "chain of references": schema(chain(lambda each: each, 1000)),
    "chain of arrays": schema(chain(lambda each: {"type": "array", "items": each}, 700)),
    "doubling": schema(chain(lambda each: {"allOf": [each, each]}, 30)),
    "doubling choices": schema(chain(lambda each: {"anyOf": [each, each]}, 30)),
    "enum": schema({"enum": [f"v{i}" for i in range(5000)]}),
    "long constant": schema({"const": "x" * 60_000}),
    "maxLength": schema({"type": "string", "maxLength": 10**9}),
    "minLength": schema({"type": "string", "minLength": 10**9, "pattern": "^a*$"}),
    "minItems": schema({"type": "array", "items": {"type": "null"}, "minItems": 10**9}),
    "optional keys": schema({"properties": {f"p{i}": {} for i in range(1500)}, "type": "object"}),
    "pattern": schema({"type": "string", "pattern": "^(.*a.{60})$"}),
    "catastrophe": regex("(a+)+b"),
    "powers": regex("((a{100}){100}){100}"),
    "letters": regex(r"\p{L}{1,5000}"),
    "alternatives": regex("|".join(f"w{i}x" for i in range(7000))),
    "ambiguous": lark('start: start start | "a"'),
    "doubling rules": lark(
        "start: r0\n" + "".join(f"r{i}: r{i + 1} r{i + 1}\n" for i in range(60)) + 'r60: "a"'
    ),
    "complement": lark("start: T\nT: ~/.*a.{30}/ & /.*b.{30}/"),
    "many choices": lark("start: " + " | ".join(f'"w{i}"' for i in range(4000))),
    "own style": schema({"type": "object", "x-guidance": {"whitespace_pattern": "(a|b)*"}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_grammar_is_refused_in_words_for_its_author(
    compiler: GrammarCompiler, name: str
) -> None:
    grammar, message = REFUSED[name]
    with pytest.raises(InvalidRequest, match=message) as caught:
        compiler.check(grammar)
    assert caught.value.param == "grammar"
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ENDURED)
def test_a_costly_grammar_ends(compiler: GrammarCompiler, name: str) -> None:
    try:
        compiler.check(ENDURED[name])
        matcher = compiler.matcher(ENDURED[name])
        for _ in range(NUM_STEPS):
            matcher.advance(matcher.mask().nonzero()[0][-1:].tolist())
    except TandemError as error:
        assert isinstance(error, InvalidRequest)


def test_no_reference_is_fetched(compiler: GrammarCompiler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        for grammar in (schema({"$ref": url}), lark('start: %json {"$ref": "' + url + '"}')):
            with pytest.raises(InvalidRequest, match="never fetched"):
                compiler.check(grammar)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_style_of_the_schemas_own_is_ignored(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(ENDURED["own style"])
    matcher.advance(list(b"{"))
    assert set(matcher.mask().nonzero()[0].tolist()) == {ord('"'), ord("}")}


def test_brackets_that_mean_themselves_are_no_nesting(compiler: GrammarCompiler) -> None:
    compiler.check(schema({"const": "[" * 500}))
    compiler.check(regex(r"\(" * 100 + "[(]" * 100))
    compiler.check(lark(f'start: "{"(" * 500}" // {"(" * 500}'))


def test_a_verdict_is_remembered(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = regex("[a-c]+"), regex("[c-a]+")
    compiler.check(good)
    with pytest.raises(InvalidRequest):
        compiler.check(bad)
    monkeypatch.delattr(grammar_trial.subprocess, "run")
    compiler.check(good)
    with pytest.raises(InvalidRequest, match="invalid pattern"):
        compiler.check(bad)


def test_what_waits_too_long_for_its_trial_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = GrammarCompiler(MOCK.tokenizer(), 260, frozenset({EOS}))
    running, go_on = threading.Semaphore(0), threading.Event()

    def run(*args: Any, **kwargs: Any) -> None:
        running.release()
        go_on.wait()
        raise grammar_trial.subprocess.TimeoutExpired("child", 1)

    monkeypatch.setattr(grammar_trial.subprocess, "run", run)
    monkeypatch.setattr(grammar_trial, "MAX_WAIT_S", 0.01)
    with ThreadPoolExecutor(grammar_trial.MAX_AT_ONCE) as pool:
        texts = "abcd"[: grammar_trial.MAX_AT_ONCE]
        trials = [pool.submit(compiler.check, regex(text)) for text in texts]
        for _ in trials:
            running.acquire()
        with pytest.raises(ResourceExhausted, match="too many grammars") as caught:
            compiler.check(regex("e"))
        assert caught.value.retry_after_s
        go_on.set()
        errors = [type(each.exception()) for each in trials]
    assert errors == [ResourceExhausted] * grammar_trial.MAX_AT_ONCE


def test_a_trial_yields_to_the_workers_and_leaves_them_a_core(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 1 <= grammar_trial.MAX_AT_ONCE <= max(1, len(os.sched_getaffinity(0)) - 1)
    started: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        started.append(command)
        assert options["timeout"] <= grammar_trial.MAX_WAIT_S
        # The child as it is, but that it tells how nice it is.
        tell = command[-1].replace("main()", "print(os.nice(0) - before)")
        told = grammar_trial.subprocess.Popen(
            [*command[:-1], f"import os; before = os.nice(0); {tell}"], stdout=-1
        ).communicate()[0]
        assert int(told) == grammar_trial.NICENESS
        return grammar_trial.subprocess.CompletedProcess(command, 0, stdout=b'""')

    monkeypatch.setattr(grammar_trial.subprocess, "run", run)
    compiler.check(regex("nice"))
    assert len(started) == 1


def test_a_child_that_says_nothing_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(MOCK.tokenizer(), 260, frozenset({EOS}))
    silent = grammar_trial.subprocess.CompletedProcess([], 0, stdout=b"")
    monkeypatch.setattr(grammar_trial.subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(InvalidRequest, match="too complex"):
        compiler.check(regex("a"))


@pytest.mark.parametrize("message", ["", "thread panicked at src/lib.rs:12", "\n\n", "x" * 9000])
def test_what_is_not_for_clients_is_not_shown(message: str) -> None:
    assert explain(message) == "is not valid, or not supported"
