from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from http_client import CHAT_PATH, TEXT_PATH, assert_refused
from one_app import one_app
from scripted_service import ScriptedService

from gateway.http.body import MAX_BODY_NODES
from gateway.http.limits import MAX_BODY_BYTES
from tandem.core.errors import ResourceExhausted
from tandem.core.sampling_params import MAX_LOGIT_BIAS

JSON_TYPE = {"content-type": "application/json"}
USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.fixture
def app() -> FastAPI:
    """What is refused leaves nothing behind."""
    return one_app()[0]


@pytest.fixture
def service() -> ScriptedService:
    service = one_app()[1]
    service.requests.clear()
    return service


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """What the tests before have left takes longer to look through than any request here."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("n", 0),
        ("n", 10**9),
        ("n", 1.5),
        ("n", "2"),
        ("best_of", 2),
        ("suffix", "x"),
        ("priority", 1001),
        ("priority", 1.5),
        ("timeout", "1"),
        ("cache_salt", 5),
        ("cache_salt", "x" * 257),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("top_logprobs", 1),
        ("logit_bias", {"260": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"\u0665": 1}),
        ("logit_bias", {"1" * 5000: 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": "1"}),
        ("logit_bias", {str(i): 1 for i in range(60_000)}),
        ("logit_bias", [1]),
        ("frequency_penalty", 2.5),
        ("frequency_penalty", "1"),
        ("presence_penalty", -2.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("repetition_penalty", 11),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("min_tokens", -1),
        ("min_tokens", 10**9),
        ("skip_special_tokens", "no"),
        ("include_stop_str_in_output", 1),
        ("response_format", {"type": "xml"}),
        ("structured_outputs", {}),
        ("response_format", {"type": "json_object", "schema": {"type": "object"}}),
        ("prompt_logprobs", 1),
        ("logprob_token_ids", [1]),
        ("repetition_detection", {"max_pattern_size": 4, "min_count": 2}),
        ("thinking_token_budget", 100),
        ("return_prompt_text", True),
        ("moderation", {"model": "omni-moderation-latest"}),
        ("verbosity", "low"),
        ("use_beam_search", True),
        ("return_token_ids", True),
        ("return_tokens_as_token_ids", True),
        ("spaces_between_special_tokens", False),
        ("temperature", "hot"),
        ("temperature", "1"),
        ("temperature", 2.5),
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("top_k", 1.5),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("max_tokens", 10**9),
        ("max_tokens", 10**30),
        ("max_completion_tokens", 0),
        ("max_completion_tokens", 10**9),
        ("seed", -(2**63) - 1),
        ("seed", 2**63),
        ("seed", "x"),
        ("stop", ["x"] * 33),
        ("stop", ["x"] * 100_000),
        ("stop", "x" * 257),
        ("stop", [""]),
        ("stop", [1]),
        ("stop_token_ids", [260]),
        ("stop_token_ids", ["x"]),
        ("stop_token_ids", [1] * 65),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("stream_options", 1),
        ("stream_options", {"continuous_usage_stats": 5}),
        ("request_id", "x" * 129),
        ("request_id", "a b"),
        ("model", 5),
    ],
)
@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
async def test_a_bad_value(client, service, path, param, value):
    prompt = {"messages": [USER]} if path == CHAT_PATH else {"prompt": "Hi"}
    assert_refused(await client.post(path, json={**prompt, param: value}), 400, param)
    assert not service.requests


async def test_of_too_many_biases_none_is_looked_at(client) -> None:
    """Each that is none would be an error with words of its own."""
    biases = {str(i): "x" for i in range(60_000)}
    answer = await client.post(TEXT_PATH, json={"prompt": "Hi", "logit_bias": biases})
    assert_refused(answer, 400, "logit_bias")
    assert f"at most {MAX_LOGIT_BIAS}" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        [""],
        [[]],
        [260],
        [-1],
        [2**70],
        [[260]],
        ["a", 1],
        ["a", ""],
        [1, "a"],
        [[1], "a"],
        [1.5],
        [["a"]],
        None,
        5,
        {},
        [1] * 2048,
        [[1] * 2048],
        ["a"] * 129,
        ["x" * 600_000] * 2,
    ],
)
async def test_a_bad_prompt(client, prompt):
    assert_refused(await client.post(TEXT_PATH, json={"prompt": prompt}), 400, "prompt")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        None,
        "Hi",
        [None],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "god", "content": "x"}],
        [{"role": "tool", "content": "x"}],
        [{"role": "tool", "content": None, "tool_call_id": "a"}],
        [USER | {"tool_call_id": "a"}],
        [ASSISTANT | {"tool_calls": 5}],
        [ASSISTANT | {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}],
        [ASSISTANT | {"tool_calls": [CALL] * 129}],
        [ASSISTANT | {"function_call": {"name": "f", "arguments": "{}"}}],
        [USER | {"tool_calls": [CALL]}],
        [USER | {"name": 5}],
        [USER | {"tool_calls": [{}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
        [USER] * 2049,
    ],
)
async def test_bad_messages(client, messages):
    assert_refused(await client.post(CHAT_PATH, json={"messages": messages}), 400, "messages")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT_PATH, {"logprobs": 21}, "logprobs"),
        (TEXT_PATH, {"logprobs": -1}, "logprobs"),
        (TEXT_PATH, {"logprobs": True}, "logprobs"),
        (TEXT_PATH, {"logprobs": 21, "echo": True}, "logprobs"),
        (TEXT_PATH, {"echo": "yes"}, "echo"),
        (CHAT_PATH, {"logprobs": 5}, "logprobs"),
        (CHAT_PATH, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT_PATH, {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        (CHAT_PATH, {"echo": True}, "echo"),
        (CHAT_PATH, {"add_special_tokens": True}, "add_special_tokens"),
        (TEXT_PATH, {"add_special_tokens": 1}, "add_special_tokens"),
        (CHAT_PATH, {"modalities": ["audio"]}, "modalities"),
        (CHAT_PATH, {"chat_template": "{{ 1 }}"}, "chat_template"),
        (TEXT_PATH, {"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
    ],
)
async def test_a_bad_value_of_one_endpoint(client, service, path, fields, param):
    prompt = {"messages": [USER]} if path == CHAT_PATH else {"prompt": "Hi"}
    assert_refused(await client.post(path, json=prompt | fields), 400, param)
    assert not service.requests


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT_PATH, {"stop": ["x"] * 33}, "stop: List should have at most 32 items"),
        (CHAT_PATH, {"stop": [1]}, "stop[0]: Input should be a valid string"),
        (CHAT_PATH, {"messages": [USER, {"content": "x"}]}, "messages[1].role: Field required"),
        (CHAT_PATH, {"messages": [USER, None]}, "messages[1]: Input should be an object"),
        (
            CHAT_PATH,
            {"messages": [USER | {"content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type: Input should be 'text'; only text parts are served",
        ),
        (CHAT_PATH, {"tools": [{"type": "function"}]}, "tools[0].function: Field required"),
        (
            CHAT_PATH,
            {"tools": [{"type": "function", "function": {}}]},
            "tools[0].function.name: Field required",
        ),
        (CHAT_PATH, {"tool_choice": "any"}, "tool_choice: Input should be 'none', 'auto' or"),
        (
            CHAT_PATH,
            {"tool_choice": {"type": "function", "name": "f"}},
            "tool_choice.function: Field required",
        ),
        (
            CHAT_PATH,
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema: Input should be",
        ),
        (CHAT_PATH, {"logit_bias": {"1": "x"}}, "logit_bias: Input should be a valid number"),
        (TEXT_PATH, {"prompt": ["a", 1]}, "prompt[1]: Input should be a valid string"),
        (TEXT_PATH, {"prompt": [1, "a"]}, "prompt[1]: Input should be a valid integer"),
        (TEXT_PATH, {"prompt": [[1], ["a"]]}, "prompt[1][0]: Input should be a valid integer"),
        (TEXT_PATH, {"prompt": ["a"] * 129}, "prompt: List should have at most 128 items"),
    ],
)
async def test_what_is_wrong_and_where(client, path, fields, message):
    prompt = {"messages": [USER]} if path == CHAT_PATH else {"prompt": "Hi"}
    response = await client.post(path, json=prompt | fields)
    assert_refused(response, 400, next(iter(fields)))
    assert response.json()["error"]["message"].startswith(message)


async def test_a_body_that_is_no_object(client):
    response = await client.post(TEXT_PATH, json=[])
    assert_refused(response, 400, None)
    assert response.json()["error"]["message"] == "body: Input should be an object"


async def test_a_missing_prompt(client):
    assert_refused(await client.post(TEXT_PATH, json={}), 400, "prompt")
    assert_refused(await client.post(CHAT_PATH, json={}), 400, "messages")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT_PATH, {"prompt": "x" * 5000}, "prompt"),
        (TEXT_PATH, {"prompt": "x", "max_tokens": 2048}, "max_tokens"),
        (CHAT_PATH, {"messages": [USER | {"content": "x" * 5000}]}, "messages"),
    ],
)
async def test_what_does_not_fit_is_told_in_openais_terms(client, path, fields, param):
    """LiteLLM and Cline know it by these words alone, and then shorten the conversation."""
    response = await client.post(path, json=fields)
    assert_refused(response, 400, param)
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("this model's maximum context length is 2048 tokens, ")


async def test_a_wrong_model(client):
    response = await client.post(TEXT_PATH, json={"prompt": "x", "model": "gpt\x1b[2J" * 50})
    assert_refused(response, 404, "model")
    assert response.json()["error"]["code"] == "model_not_found"
    assert "\x1b" not in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b"\xff\xfe",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b'{"prompt": "Hi", "temperature": NaN}',
        b'{"prompt": "Hi", "temperature": Infinity}',
        b'{"prompt": "Hi", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "Hi", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"prompt": "Hi", "x": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    ],
)
async def test_a_bad_body(client, service, body):
    response = await client.post(TEXT_PATH, content=body, headers=JSON_TYPE)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not service.requests


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/form-data", "json", ""])
async def test_a_wrong_content_type(client, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    response = await client.post(TEXT_PATH, content=b'{"prompt": "Hi"}', headers=headers)
    assert_refused(response, 415, None)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_a_right_content_type(client, content_type):
    headers = {"content-type": content_type}
    response = await client.post(TEXT_PATH, content=b'{"prompt": "Hi"}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "identity, br"])
async def test_a_compressed_body(client, encoding):
    headers = JSON_TYPE | {"content-encoding": encoding}
    content = gzip.compress(b'{"prompt": "Hi"}')
    response = await client.post(TEXT_PATH, content=content, headers=headers)
    assert_refused(response, 415, None)
    message = f"Content-Encoding '{encoding}' is not served: send the body as it is"
    assert response.json()["error"]["message"] == message


async def test_a_body_as_it_is(client):
    headers = JSON_TYPE | {"content-encoding": "Identity"}
    response = await client.post(TEXT_PATH, content=b'{"prompt": "Hi"}', headers=headers)
    assert response.status_code == 200


async def test_a_body_that_says_it_is_too_long(client):
    headers = JSON_TYPE | {"content-length": str(10**8)}
    response = await client.post(TEXT_PATH, content=b"{}", headers=headers)
    assert_refused(response, 413, None)
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("num_chunks", [MAX_BODY_BYTES // 65536 + 1, 10**6])
async def test_a_body_that_does_not_say_it_is_too_long(client, num_chunks):
    async def chunks():
        for _ in range(num_chunks):
            yield b" " * 65536

    started = time.thread_time()
    response = await client.post(TEXT_PATH, content=chunks(), headers=JSON_TYPE)
    assert_refused(response, 413, None)
    assert time.thread_time() - started < 1.0


async def test_a_body_that_is_too_long_and_never_ends(client):
    """Reading on until the client may have read why is the server's matter."""

    async def chunks():
        yield b" " * MAX_BODY_BYTES
        yield b" "
        raise AssertionError("it was read further")

    response = await client.post(TEXT_PATH, content=chunks(), headers=JSON_TYPE)
    assert_refused(response, 413, None)
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    "unit", [b"[],", b"{},", b"[[]],", b"1,", b'"",', b'{"role":"","content":""},']
)
@pytest.mark.parametrize(
    "field", [b"prompt", b"messages", b"stop", b"stop_token_ids", b"guided_choice", b"x"]
)
@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
async def test_the_largest_body_is_refused_fast(client, path, unit, field):
    body = b'{"%s": [%s 0]}' % (field, unit * ((MAX_BODY_BYTES - 100) // len(unit)))
    started = time.thread_time()
    response = await client.post(path, content=body, headers=JSON_TYPE)
    assert response.status_code == 400
    # Of processor time; at most 100 ms of it. A list whose every item is judged takes seconds.
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize("colon", [b":", b" :", b"\r\n\t:"])
async def test_keys_are_counted_however_they_are_written(client, colon):
    async def status(num_keys):
        keys = b",".join([b'"k"' + colon + b"1"] * num_keys)
        body = b'{"prompt":"Hi","x":{%s}}' % keys
        return (await client.post(TEXT_PATH, content=body, headers=JSON_TYPE)).status_code

    assert await status(MAX_BODY_NODES - 4) == 200
    assert await status(MAX_BODY_NODES) == 400


def scope_of():
    return {
        "type": "http",
        "method": "POST",
        "path": TEXT_PATH,
        "raw_path": TEXT_PATH.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "state": {},
    }


async def test_a_client_that_leaves_in_its_body_is_no_error(app, logs):
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope_of(), receive, send)
    assert [message.get("status") for message in sent] == [499, None]
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_an_error_that_its_client_does_not_wait_for_is_answered_once(
    app, service, monkeypatch
):
    monkeypatch.setattr(service, "refusal", ResourceExhausted("the queue is full"))
    body = {"type": "http.request", "body": json.dumps({"prompt": "Hi", "stream": True}).encode()}
    sent, asked = [], iter([body])

    async def receive():
        while not sent and (message := next(asked, None)) is None:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"} if sent else message

    async def send(message):
        sent.append(message)
        if len(sent) == 1:
            await asyncio.Event().wait()

    await app(scope_of(), receive, send)
    assert [message["status"] for message in sent] == [429]


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/v1/chat/completions", "'/v1/v1/chat/completions'"),
        ("/v1/embeddings", "'/v1/embeddings'"),
        ("//v1/models", "'//v1/models'"),
        ("/%1b%5b2J", r"'/\x1b[2J'"),
    ],
)
async def test_an_unknown_route_is_named(client, path, named):
    response = await client.get(httpx.URL("http://gateway", raw_path=path.encode()))
    assert_refused(response, 404, None)
    message = f"there is no {named} here: /openapi.json lists what there is"
    assert response.json()["error"]["message"] == message


async def test_unknown_routes_and_methods(client):
    for response, status in [
        (await client.get("/nope"), 404),
        (await client.post(CHAT_PATH + "/", json={"messages": [USER]}), 404),
        (await client.get("/health/"), 404),
        (await client.get(CHAT_PATH), 405),
        (await client.post("/v1/models", content=b"x" * 100), 405),
    ]:
        assert_refused(response, status, None)
