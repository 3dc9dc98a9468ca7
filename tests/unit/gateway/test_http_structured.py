"""What answers must look like, asked for over HTTP."""

from __future__ import annotations

import asyncio
import threading

import pytest
from http_client import CHAT, CHAT_PATH, TEXT, TEXT_PATH, assert_refused, whole
from scripted_service import ScriptedGrammars

from tandem.artifacts.grammars import GrammarCompiler
from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar, GrammarKind

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
AS_SCHEMA = Grammar(
    GrammarKind.JSON_SCHEMA, '{"type":"object","properties":{"x":{"type":"integer"}}}'
)
ANY = Grammar(GrammarKind.JSON_SCHEMA, '{"type":"object"}')
CHOICE = Grammar(GrammarKind.LARK, 'start: "a" | "\\"b\\\\"\n')


def openais(**fields: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", **fields}}}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ANY),
        (openais(schema=SCHEMA, strict=True), AS_SCHEMA),
        ({"guided_json": SCHEMA}, AS_SCHEMA),
        ({"guided_json": '{"type":"object"}'}, ANY),
        ({"guided_regex": "[a-z]+"}, Grammar(GrammarKind.REGEX, "[a-z]+")),
        ({"guided_choice": ["a", '"b\\']}, CHOICE),
        ({"guided_grammar": 'start: "a"'}, Grammar(GrammarKind.LARK, 'start: "a"')),
        ({"structured_outputs": {"json": SCHEMA}}, AS_SCHEMA),
        ({"structured_outputs": {"regex": "a"}}, Grammar(GrammarKind.REGEX, "a")),
        ({"structured_outputs": {"choice": ["a", '"b\\']}}, CHOICE),
        ({"structured_outputs": {"grammar": "start: A"}}, Grammar(GrammarKind.LARK, "start: A")),
        ({"structured_outputs": {"json_object": True}}, ANY),
    ],
)
@pytest.mark.parametrize(("path", "prompt"), [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)])
async def test_the_grammar_reaches_the_workers(
    client, service, grammars, path, prompt, fields, grammar
):
    await whole(client, path, prompt | fields | {"n": 2})
    assert [request.params.grammar for request in service.requests] == [grammar] * 2
    assert grammars.checked == ([grammar] if grammar else [])


def nested(levels: int) -> dict[str, object]:
    schema: dict[str, object] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": 5}, "response_format"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (openais(), "response_format"),
        (openais(schema=[]), "response_format"),
        (openais(schema=nested(65)), "response_format"),
        (openais(schema=nested(500)), "response_format"),
        (openais(schema={"enum": ["x" * 70_000]}), "response_format"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": '{"a":' * 20_000 + "1" + "}" * 20_000}, "guided_json"),
        ({"guided_json": '{"items":' * 100 + "{}" + "}" * 100}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a" * 70_000}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice"),
        ({"guided_choice": [5]}, "guided_choice"),
        ({"guided_choice": ["x"] * 2000}, "guided_choice"),
        ({"guided_grammar": ""}, "guided_grammar"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "json_object": True}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ],
)
@pytest.mark.parametrize(("path", "prompt"), [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)])
async def test_what_can_be_refused_without_compiling(
    client, service, grammars, path, prompt, fields, param
):
    assert_refused(await client.post(path, json=prompt | fields), 400, param)
    assert not grammars.checked and not service.requests


async def test_what_the_checker_refuses(client, service, grammars):
    grammars.refusal = InvalidRequest("the regular expression is nonsense", param="grammar")
    refused = await client.post(TEXT_PATH, json=TEXT | {"guided_regex": "("})
    assert_refused(refused, 400, "guided_regex")
    assert "is nonsense" in refused.json()["error"]["message"]
    assert not service.requests


class RealGrammars(ScriptedGrammars):
    def __init__(self, compiler: GrammarCompiler) -> None:
        super().__init__()
        self.check, self.knows = compiler.check, compiler.knows


@pytest.fixture
def real(frontend, tokenizer, monkeypatch):
    compiler = GrammarCompiler(tokenizer, 260, frozenset({256}))
    monkeypatch.setattr(frontend, "_grammars", RealGrammars(compiler))


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "("},
        {"guided_regex": "(?=a)b"},
        {"guided_json": {"type": "nope"}},
        {"guided_json": {"$ref": "http://127.0.0.1/x"}},
        {"guided_json": {"$ref": "file:///etc/passwd"}},
        {"guided_json": {"$ref": "#/$defs/missing"}},
        {"guided_json": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "allOf": [{"$ref": "#/$defs/a"}]}},
        {"guided_grammar": "start: start"},
        {"guided_grammar": "no grammar"},
        {"guided_grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
        {"guided_json": {"allOf": [{"pattern": f".*{i}.*"} for i in range(200)]}},
    ],
)
async def test_hostile_grammars_end_with_their_request(client, service, real, fields):
    response = await client.post(TEXT_PATH, json=TEXT | fields)
    (param,) = fields
    assert_refused(response, 400, param)
    assert not service.requests
    assert (await client.get("/live")).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_regex": "(a+)+$"},
        {
            "guided_json": {
                "$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}}},
                "$ref": "#/$defs/a",
            }
        },
        {"guided_choice": [f"answer {i}" for i in range(1024)]},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_what_only_looks_hostile_is_served(client, real, fields):
    await whole(client, TEXT_PATH, TEXT | fields)


async def test_a_checked_grammar_does_not_hold_others_up(client, service, frontend, monkeypatch):
    """The event loop serves while a grammar is checked."""
    release = threading.Event()

    class Slow(ScriptedGrammars):
        def check(self, grammar: Grammar) -> None:
            assert release.wait(10)

    monkeypatch.setattr(frontend, "_grammars", Slow())
    slow = asyncio.create_task(client.post(TEXT_PATH, json=TEXT | {"guided_regex": "a"}))
    await whole(client, TEXT_PATH, TEXT)
    assert not slow.done()
    release.set()
    assert (await slow).status_code == 200
