"""What `/openapi.json` says of answers, against answers: nothing of these is left out there."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from http_client import CHAT, CHAT_PATH, TEXT, TEXT_PATH, events
from one_app import one_app

from gateway.http.access import OPEN_PATHS

JSON, EVENTS = "application/json", "text/event-stream"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call>'
PLAIN: list[tuple[str, dict[str, Any]]] = [
    (CHAT_PATH, CHAT),
    (CHAT_PATH, CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2}),
    (TEXT_PATH, TEXT),
    (TEXT_PATH, TEXT | {"n": 2, "logprobs": 2}),
    (TEXT_PATH, {"prompt": ["Hi", "Ho"], "echo": True}),
    (TEXT_PATH, {"prompt": "Hi", "echo": True, "logprobs": 1}),
]
OPTIONS = [
    {},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return one_app()[0].openapi()


def check(document: dict[str, Any], where: str, value: object, kind: str = JSON) -> None:
    """`where` is a method and a path."""
    method, path = where.split()
    schema = document["paths"][path][method]["responses"]["200"]["content"][kind]["schema"]
    assert schema
    closed = {name: closing(each) for name, each in document["components"]["schemas"].items()}
    validator = jsonschema.Draft202012Validator(schema | {"components": {"schemas": closed}})
    validator.validate(value)


def closing(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, without what it does not name; those that others extend are written out there."""
    return schema | {"additionalProperties": False} if "properties" in schema else schema


@pytest.mark.parametrize(("path", "body"), PLAIN)
async def test_answers_are_as_it_says(client, document, path, body) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    check(document, f"post {path}", response.json())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("path", "body"), PLAIN[:-1])
async def test_events_are_as_it_says(client, document, path, body, options) -> None:
    chunks = events(await client.post(path, json=body | options | {"stream": True}))
    assert chunks
    for chunk in chunks:
        check(document, f"post {path}", chunk, EVENTS)


async def test_calls_are_as_it_says(client, document, service, say) -> None:
    service.script = lambda request: say("Well. " + CALL)
    body = CHAT | {"tools": [TOOL]}
    whole = (await client.post(CHAT_PATH, json=body)).json()
    assert whole["choices"][0]["message"]["tool_calls"]
    check(document, f"post {CHAT_PATH}", whole)
    chunks = events(await client.post(CHAT_PATH, json=body | {"stream": True}))
    assert any("tool_calls" in each["choices"][0]["delta"] for each in chunks)
    for chunk in chunks:
        check(document, f"post {CHAT_PATH}", chunk, EVENTS)


async def test_an_error_that_ends_a_stream_is_as_it_says(client, document, service, say) -> None:
    service.script = lambda request: [*say("Hello")[:-1], KeyError("a bug")]
    *_, last = events(await client.post(CHAT_PATH, json=CHAT | {"stream": True}))
    assert "error" in last
    check(document, f"post {CHAT_PATH}", last, EVENTS)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "Hi"}),
        ("/tokenize", {"prompt": "Hi", "return_token_strs": True}),
        ("/detokenize", {"tokens": [72]}),
    ],
)
async def test_tokens_are_as_it_says(client, document, path, body) -> None:
    check(document, f"post {path}", (await client.post(path, json=body)).json())


@pytest.mark.parametrize("path", ["/v1/models", "/live", "/health", "/ready", "/version"])
async def test_what_is_read_is_as_it_says(client, document, path) -> None:
    check(document, f"get {path}", (await client.get(path)).json())


async def test_each_answer_has_a_kind_and_each_body_a_schema(document) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation["responses"]["200"]["content"]
            assert content and all(each["schema"] for each in content.values()), path
            errors = [each for status, each in operation["responses"].items() if status != "200"]
            assert all(each["content"].keys() == {JSON} for each in errors), path
    assert document["paths"]["/metrics"]["get"]["responses"]["200"]["content"].keys() == {
        "text/plain"
    }


async def test_keys_and_headers_are_told_of(document) -> None:
    schemes = document["components"]["securitySchemes"]
    assert [each["scheme"] for each in schemes.values()] == ["bearer"]
    assert [list(each) for each in document["security"]] == [list(schemes), []]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert (operation.get("security") == []) is (path in OPEN_PATHS), path
            refs = [each.get("$ref", "").rpartition("/")[2] for each in operation["parameters"]]
            assert "X-Request-Id" in refs, path
            assert ("X-Tandem-Tenant" in refs) is (path not in OPEN_PATHS), path
            assert ("traceparent" in refs) is (path in (CHAT_PATH, TEXT_PATH)), path
    assert document["components"]["parameters"].keys() >= {"X-Request-Id", "traceparent"}
