from __future__ import annotations

import asyncio
import json

import httpx
import httpx2
import pytest
from http_client import (
    CHAT,
    CHAT_PATH,
    TEXT,
    TEXT_PATH,
    counted_calls,
    events,
    whole,
    with_body,
)
from openai import AsyncOpenAI, InternalServerError
from scripted_service import Pause, ended

from gateway.http.schemas.chat import ChatBody
from gateway.http.unserved import check_extra_fields
from tandem.artifacts.tokenizer import Tokenizer
from tandem.bench.completion_stream import Endpoint
from tandem.bench.workload import Prompt
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Mismatch,
    ResourceExhausted,
    TandemError,
    Unavailable,
)
from tandem.core.sampling_params import SamplingParams

TOOL = {"type": "function", "function": {"name": "f"}}


def error_of(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    return error


async def test_a_chat(client):
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    body = response.json()
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "mock")
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "Hello, world"
    assert choice["finish_reason"] == "length"
    usage = body["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    assert body["tandem"] == {
        "mode": "disaggregated",
        "prefill_worker": "prefill-0",
        "decode_worker": "decode-0",
        "kv_bytes": 4096,
        "recoveries": 1,
        "bad_transfers": 3,
        "preemptions": 2,
    }


@pytest.mark.parametrize("prompt", ["Hi", [72, 105]])
async def test_a_completion(client, service, prompt):
    response = await client.post("/v1/completions", json={"prompt": prompt})
    body = response.json()
    assert body["object"] == "text_completion"
    assert body["system_fingerprint"].startswith("tandem-")
    assert body["choices"][0]["text"] == "Hello, world"
    assert service.requests[0].params.max_tokens == 16


@pytest.mark.parametrize(("path", "prompt"), [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)])
async def test_fields_reach_the_workers(client, service, path, prompt):
    fields = {
        "max_tokens": 3,
        "max_completion_tokens": 5,
        "min_tokens": 2,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {"7": -100, "3": 1.5},
        "seed": 7,
        "stop_token_ids": [1, 2],
        "ignore_eos": True,
        "request_id": "mine",
    }
    await whole(client, path, prompt | fields)
    (request,) = service.requests
    assert request.request_id == "mine"
    assert request.params == SamplingParams(
        max_tokens=5,  # by its newer name
        min_tokens=2,
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        min_p=0.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        repetition_penalty=1.2,
        logit_bias=((3, 1.5), (7, -100.0)),
        seed=7,
        stop_token_ids=frozenset({1, 2}),
        ignore_eos=True,
    )


async def test_a_streamed_chat(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage = events(await client.post("/v1/chat/completions", json=CHAT | options))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello, world"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 13
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["tandem"]["decode_worker"] == "decode-0"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 12


async def test_a_streamed_completion(client):
    chunks = events(await client.post("/v1/completions", json=TEXT | {"stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello, world"
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stop_string(client):
    fields = TEXT | {"stream": True, "stop": "lo, w"}
    chunks = events(await client.post("/v1/completions", json=fields))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hel"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_what_an_assistant_refused_is_what_it_said(client, service, tokenizer):
    refusal = {"role": "assistant", "content": None, "refusal": "I will not."}
    fields = {"messages": [*CHAT["messages"], refusal, *CHAT["messages"]]}
    assert (await client.post("/v1/chat/completions", json=fields)).status_code == 200
    prompt = tokenizer.decode(service.requests[0].prompt_token_ids, skip_special_tokens=False)
    assert "<|im_start|>assistant\nI will not.<|im_end|>" in prompt


async def test_as_many_stop_strings_as_an_editor_sends(client):
    """Continue, for a model that fills in code: the marks, and what begins a line of TypeScript."""
    stops = [f"<|mark_{number}|>" for number in range(15)]
    stops += [f"\n{word}" for word in ("function", "class", "module", "export", "import")]
    response = await client.post("/v1/completions", json=TEXT | {"stop": stops})
    assert response.status_code == 200


async def test_content_in_parts(client, service, tokenizer):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    fields = {"messages": [{"role": "developer", "content": parts}]}
    assert (await client.post("/v1/chat/completions", json=fields)).status_code == 200
    prompt = tokenizer.decode(service.requests[0].prompt_token_ids, skip_special_tokens=False)
    assert prompt.startswith("<|im_start|>system\na\nb<|im_end|>")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ResourceExhausted("full", retry_after_s=2.5), 429, "resource_exhausted"),
        (Cancelled("gone"), 499, "cancelled"),
        (Mismatch("secret"), 500, "internal_error"),
        (DataLoss("secret"), 500, "internal_error"),
        (TandemError("secret"), 500, "internal_error"),
        (RuntimeError("secret"), 500, "internal_error"),
        (Unavailable("none", retry_after_s=0.2), 503, "unavailable"),
        (DeadlineExceeded("late"), 504, "deadline_exceeded"),
    ],
)
async def test_errors_before_the_first_token(client, service, error, status, code):
    service.script = lambda request: [Pause.A_MOMENT, error]
    for refusal in (None, error):
        service.refusal = refusal
        for stream in (False, True):
            response = await client.post("/v1/completions", json=TEXT | {"stream": stream})
            assert response.status_code == status
            assert error_of(response)["code"] == code
            assert "secret" not in response.text
            assert ("retry-after" in response.headers) == (status in (429, 503))
            assert response.headers.get("x-should-retry") == ("false" if status == 504 else None)
            assert "x-request-id" in response.headers


async def test_openais_client_does_not_ask_again_for_what_is_too_late(app, service):
    service.script = lambda request: [DeadlineExceeded("late")]
    transport = httpx2.ASGITransport(with_body(app))
    async with httpx2.AsyncClient(transport=transport) as http:
        openai = AsyncOpenAI(base_url="http://gateway/v1", api_key="none", http_client=http)
        with pytest.raises(InternalServerError, match="late"):
            await openai.completions.create(model="mock", prompt="Hi")
    assert len(service.requests) == 1


@pytest.mark.parametrize("error", [Unavailable("the worker left"), RuntimeError("secret")])
async def test_an_error_in_mid_stream_is_an_event(client, service, error):
    service.script = lambda request: [72, error]
    response = await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert response.status_code == 200
    *_, text, last = events(response)
    assert text["choices"][0]["delta"] == {"content": "H"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in response.text


async def test_models(client, service):
    body = (await client.get("/v1/models")).json()
    assert [model["id"] for model in body["data"]] == ["mock", "default"]
    assert body["data"][0].keys() == {"id", "object", "created", "owned_by", "max_model_len"}
    assert body["data"][0]["max_model_len"] == 2048
    service.model = None
    assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}


async def test_one_model(client):
    body = (await client.get("/v1/models/mock")).json()
    assert (body["id"], body["object"]) == ("mock", "model")
    response = await client.get("/v1/models/org/gpt")
    assert response.status_code == 404
    said = "the model 'org/gpt' is not served here: mock is, also called default"
    assert (error_of(response)["code"], error_of(response)["message"]) == ("model_not_found", said)


async def test_draining(client, service):
    assert (await client.get("/health")).status_code == 200
    service.draining = True
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert (await client.get("/live")).status_code == 200


@pytest.mark.parametrize("special", [True, False])
async def test_tokenize(client, tokenizer, special):
    fields = {"prompt": "Hé", "add_special_tokens": special, "return_token_strs": True}
    body = (await client.post("/tokenize", json=fields)).json()
    assert body == {
        "count": 3,
        "max_model_len": 2048,
        "tokens": [72, 0xC3, 0xA9],
        "token_strs": ["H", "\ufffd", "\ufffd"],
    }
    text = (await client.post("/detokenize", json={"tokens": body["tokens"]})).json()
    assert text == {"prompt": "Hé"}


async def test_tokenize_a_conversation(client, service, tokenizer):
    for fields in ({}, {"tools": [TOOL]}):
        body = (await client.post("/tokenize", json=CHAT | fields)).json()
        assert body["token_strs"] is None
        await client.post("/v1/chat/completions", json=CHAT | fields)
        assert body["tokens"] == list(service.requests[-1].prompt_token_ids)
    body = (await client.post("/tokenize", json=CHAT | {"add_generation_prompt": False})).json()
    assert tokenizer.decode(body["tokens"], False) == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", CHAT | TEXT, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "x" * (2**20 + 1)}, "prompt"),
        ("/tokenize", TEXT | {"tools": [TOOL]}, "tools"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", TEXT | {"model": "gpt"}, "model"),
        ("/tokenize", CHAT | {"chat_template": "x"}, "chat_template"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [260]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "gpt"}, "model"),
    ],
)
async def test_bad_texts_and_tokens(client, path, body, param):
    response = await client.post(path, json=body)
    assert response.status_code == (404 if param == "model" else 400)
    assert error_of(response)["param"] == param


async def test_what_is_known_and_has_no_effect_is_let_pass(client, logs):
    fields = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "priority": 0,
        "cache_salt": "x",
        "best_of": 1,
        "logit_bias": {},
        "tools": None,
        "return_token_ids": False,
        "return_tokens_as_token_ids": False,
        "spaces_between_special_tokens": True,
        "add_special_tokens": False,
    }
    headers = {
        "Authorization": "Bearer x",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    for path, prompt in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)):
        response = await client.post(path, json=prompt | fields, headers=headers)
        assert response.status_code == 200
    assert not logs


@pytest.mark.parametrize(
    ("special", "begins"),
    [({}, True), ({"add_special_tokens": True}, True), ({"add_special_tokens": False}, False)],
)
async def test_a_plain_prompt_has_special_tokens_unless_it_wants_none(
    client, service, monkeypatch, special, begins
):
    encode = Tokenizer.encode

    def with_beginning(self, text, add_special_tokens=False):
        return [1] * add_special_tokens + encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", with_beginning)
    for prompt in ("Hi", ["Hi"]):
        await client.post("/v1/completions", json={"prompt": prompt} | special)
        assert list(service.requests[-1].prompt_token_ids) == [1] * begins + [72, 105]


async def test_ops(client, service):
    assert (await client.get("/ready")).status_code == 200
    assert "version" in (await client.get("/version")).json()
    service.ready = False
    response = await client.get("/ready")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert (await client.get("/live")).status_code == 200
    assert (await client.get("/health")).json() == {"status": "ok", "ready": False}


async def test_the_request_id_comes_back(client):
    response = await client.get("/live", headers={"X-Request-Id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert len((await client.get("/live")).headers["x-request-id"]) == 32
    assert "x-request-id" in (await client.post("/v1/completions", json={})).headers


@pytest.mark.parametrize("sent", ["a b", "a\x01b", "<b>", "\u00e9".encode(), "c" * 129])
async def test_a_request_id_that_could_forge_a_log_line_is_replaced_as_a_whole(client, logs, sent):
    response = await client.get("/live", headers={"X-Request-Id": sent})
    (warning,) = logs
    assert warning["event"] == "request_id_replaced"
    assert len(warning["request_id"]) == 32
    assert response.headers["x-request-id"] == warning["request_id"]


@pytest.mark.parametrize("sent", [{}, {"X-Request-Id": "trace:1"}])
@pytest.mark.parametrize("stream", [False, True])
async def test_one_name_from_the_client_to_the_workers_and_back(client, service, sent, stream):
    for path, body, prefix in (
        ("/v1/chat/completions", CHAT, "chatcmpl-"),
        ("/v1/completions", TEXT, "cmpl-"),
    ):
        response = await client.post(path, json=body | {"stream": stream}, headers=sent)
        name = response.headers["x-request-id"]
        assert name == sent.get("X-Request-Id", name)
        answers = events(response) if stream else [response.json()]
        assert {answer["id"] for answer in answers} == {prefix + name}
        assert service.requests[-1].request_id == name


async def test_two_requests_of_one_trace_do_not_clash(client, service):
    service.script = lambda request: [Pause.A_MOMENT, *[72] * 5, ended()]
    headers = {"X-Request-Id": "trace"}
    calls = [client.post("/v1/completions", json=TEXT, headers=headers) for _ in range(3)]
    responses = await asyncio.gather(*calls)
    assert {response.headers["x-request-id"] for response in responses} == {"trace"}
    names = [request.request_id for request in service.requests]
    assert len(set(names)) == 3
    assert names[0] == "trace" and all(name.startswith("trace-") for name in names[1:])
    assert {response.json()["id"] for response in responses} == {f"cmpl-{name}" for name in names}


async def test_a_name_of_the_requests_own_must_be_its_own(client, service):
    service.script = lambda request: [Pause.A_MOMENT, *[72] * 5, ended()]
    body = TEXT | {"request_id": "mine"}
    calls = [
        client.post("/v1/completions", json=body, headers={"X-Request-Id": str(number)})
        for number in range(2)
    ]
    served, refused = await asyncio.gather(*calls)
    assert (served.status_code, refused.status_code) == (200, 400)
    assert served.json()["id"] == "cmpl-mine"
    assert error_of(refused)["param"] == "request_id"


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(-2, 2**63 - 2), (-(2**63), 0), (-7, 2**63 - 7), (0, 0), (2**63 - 1, 2**63 - 1)],
)
async def test_a_seed_may_be_negative(client, service, seed, expected):
    response = await client.post("/v1/completions", json=TEXT | {"seed": seed})
    assert response.status_code == 200
    assert service.requests[0].params.seed == expected


@pytest.mark.parametrize("fields", [{}, {"seed": None}, {"seed": -1}])
async def test_without_a_seed_each_request_draws_its_own(client, service, fields):
    for _ in range(2):
        assert (await client.post("/v1/completions", json=TEXT | fields)).status_code == 200
    assert len({request.params.seed for request in service.requests}) == 2


async def test_the_api_describes_itself(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert "/v1/chat/completions" in paths
    assert "requestBody" in paths["/v1/completions"]["post"]
    # Its pages would be loaded from elsewhere.
    for path in ("/docs", "/redoc"):
        assert (await client.get(path)).status_code == 404


async def test_it_tells_of_the_errors_that_there_are_and_no_others(client):
    document = (await client.get("/openapi.json")).json()
    assert "HTTPValidationError" not in document["components"]["schemas"]
    statuses = {
        path: set(operation["responses"]) - {"200", "default"}
        for path, operations in document["paths"].items()
        for operation in operations.values()
    }
    of_bodies = {"400", "401", "403", "404", "408", "413", "415", "429", "503"}
    assert statuses["/v1/completions"] == statuses["/v1/chat/completions"] == of_bodies | {"504"}
    assert statuses["/tokenize"] == statuses["/detokenize"] == of_bodies
    assert statuses["/v1/models/{model_id}"] == {"401", "403", "404", "503"}
    assert (statuses["/ready"], statuses["/live"]) == ({"503"}, set())
    too_many = document["paths"]["/tokenize"]["post"]["responses"]["429"]
    assert too_many["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert "Retry-After" in too_many["headers"]


async def test_errors_are_as_it_says(client):
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["ErrorBody"]["required"] == ["error"]
    for response in (await client.post("/tokenize", json={}), await client.get("/v1/models/gpt")):
        assert response.json().keys() == {"error"}
        assert list(response.json()["error"]) == schemas["ErrorDetail"]["required"]


async def test_unknown_fields_are_let_pass_with_a_warning(client, logs):
    response = await client.post("/v1/completions", json=TEXT | {"flux": 1, "n": 1, "tools": None})
    assert response.status_code == 200
    (warning,) = logs
    assert (warning["log_level"], warning["names"]) == ("warning", ["flux"])


async def test_unknown_fields_within_others_are_named_with_them(client, logs):
    call = {"id": "a", "function": {"name": "f", "arguments": "{}", "x": 1}}
    tool = {"type": "function", "function": {"name": "f", "flux": 1}, "cache_control": {}}
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi", "flux": 1}] * 2, "flux": 1},
            {"role": "assistant", "tool_calls": [call], "refusal": None, "annotations": []},
            {"role": "tool", "content": "x", "tool_call_id": "a", "flux": 2},
        ],
        "tools": [tool],
        "response_format": {"type": "text", "json_schema": {"schema": {"x": 1}, "flux": 1}},
        "stream": True,
        "stream_options": {"include_obfuscation": False, "flux": 1},
    }
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    (warning,) = logs
    assert warning["names"] == [
        "messages[].content[].flux",
        "messages[].flux",
        "messages[].tool_calls[].function.x",
        "response_format.json_schema.flux",
        "stream_options.flux",
        "tools[].cache_control",
        "tools[].function.flux",
    ]
    await client.post("/tokenize", json={"messages": body["messages"][:1]})
    assert logs[1]["names"] == ["messages[].content[].flux", "messages[].flux"]


async def test_what_is_unknown_and_asks_for_nothing_is_let_pass(client, logs):
    body = CHAT["messages"][0] | {"audio": None, "prefix": False, "function_call": {}, "flux": None}
    fields = {"regex": "a", "disable_any_whitespace": False, "whitespace_pattern": None}
    body = {"messages": [body], "structured_outputs": fields, "flux": None}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert not logs


async def test_our_own_load_tool_asks_for_nothing_that_is_unknown(client, logs):
    request = Endpoint("host", 80, model="mock").request(Prompt((72, 105), 2))
    body = json.loads(request.partition(b"\r\n\r\n")[2])
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert not logs


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (
            "messages[].audio",
            {"messages": [CHAT["messages"][0], CHAT["messages"][0] | {"audio": {"id": "a"}}]},
        ),
        ("messages[].prefix", {"messages": [CHAT["messages"][0] | {"prefix": True}]}),
    ]
    + [
        (f"structured_outputs.{name}", {"structured_outputs": {"json_object": True, name: value}})
        for name, value in (
            ("whitespace_pattern", " "),
            ("disable_any_whitespace", True),
            ("disable_additional_properties", True),
            ("structural_tag", "x"),
        )
    ],
)
async def test_what_is_not_served_within_others_is_refused(client, service, name, fields):
    response = await client.post("/v1/chat/completions", json=CHAT | fields)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, name.partition(".")[0].strip("[]"))
    assert error["message"] == f"{name} is not served"
    assert not service.requests


def test_looking_for_unknown_fields_takes_little_of_a_long_conversation():
    part = {"type": "text", "text": "x"}
    body = ChatBody.model_validate({"messages": [{"role": "user", "content": [part] * 8}] * 2048})
    with counted_calls() as num_calls:
        check_extra_fields(body)
        # Of each message and part what it does not declare, and of a message two fields.
        assert num_calls() < 2048 * 15


@pytest.mark.parametrize(
    "path", ["/live", "/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/mock"]
)
async def test_head_is_get_without_the_body(client, path):
    got, asked = await client.get(path), await client.head(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers.keys() == got.headers.keys()


async def test_head_says_what_get_does(client, service):
    service.ready = False
    assert (await client.head("/ready")).status_code == 503
    assert (await client.head("/v1/models/gpt")).status_code == 404
    assert (await client.head("/v1/completions")).status_code == 405
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert not [path for path, operations in paths.items() if "head" in operations]
