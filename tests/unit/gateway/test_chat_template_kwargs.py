"""What a request tells the chat template besides its messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_client import CHAT, CHAT_PATH, assert_refused

from gateway.grpc_request import request_from_wire
from tandem.artifacts.resolve import MOCK_FOLDER
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2

TEMPLATE = (
    "{{ messages[0].content }}{% if enable_thinking is false %}</think>{% endif %}"
    "{{ reasoning_effort }}"
)
FIELD = "chat_template_kwargs"
NO_THINKING = CHAT | {FIELD: {"enable_thinking": False}}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    (tmp_path / "tokenizer.json").write_bytes((MOCK_FOLDER / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return Tokenizer.open(tmp_path)


@pytest.mark.parametrize(
    ("body", "prompt"),
    [(CHAT, "Hi"), (CHAT | {FIELD: None}, "Hi"), (NO_THINKING, "Hi</think>")],
)
async def test_the_template_is_told(client, service, tokenizer, body, prompt):
    assert (await client.post(CHAT_PATH, json=body)).status_code == 200
    token_ids = tokenizer.encode(prompt)
    assert list(service.requests[0].prompt_token_ids) == token_ids
    assert (await client.post("/tokenize", json=body)).json()["tokens"] == token_ids


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"reasoning_effort": "low"}, "Hilow"),
        ({"reasoning_effort": "none"}, "Hi</think>none"),
        ({"reasoning_effort": "none", FIELD: {"enable_thinking": True}}, "Hinone"),
        ({"reasoning_effort": "high", FIELD: {"reasoning_effort": "low"}}, "Hihigh"),
        ({"reasoning_effort": None, FIELD: {"reasoning_effort": "low"}}, "Hilow"),
    ],
)
async def test_it_is_told_how_much_to_think(client, service, tokenizer, fields, prompt):
    assert (await client.post(CHAT_PATH, json=CHAT | fields)).status_code == 200
    assert list(service.requests[0].prompt_token_ids) == tokenizer.encode(prompt)


async def test_an_effort_that_there_is_not(client):
    response = await client.post(CHAT_PATH, json=CHAT | {"reasoning_effort": "huge"})
    assert_refused(response, 400, "reasoning_effort")


@pytest.mark.parametrize(
    "kwargs",
    [
        5,
        [],
        {"messages": "x"},
        {"x": []},
        {"x": {"y": 1}},
        {"x": None},
        {f"x{i}": 1 for i in range(33)},
        {"x": "x" * 2**12},
        {"x" * 2**12: True},
    ],
)
@pytest.mark.parametrize("path", [CHAT_PATH, "/tokenize"])
async def test_what_it_cannot_be_told(client, service, path, kwargs):
    assert_refused(await client.post(path, json=CHAT | {FIELD: kwargs}), 400, FIELD)
    assert not service.requests


async def test_a_plain_text_has_no_template(client):
    body = {"prompt": "Hi", FIELD: {"enable_thinking": False}}
    assert_refused(await client.post("/tokenize", json=body), 400, FIELD)


def wire(text: str) -> inference_pb2.GenerateRequest:
    message = inference_pb2.ChatMessage(role="user", content="Hi")
    chat = inference_pb2.Chat(messages=[message], template_kwargs=text)
    return inference_pb2.GenerateRequest(chat=chat)


async def test_by_grpc_it_is_told_in_json(frontend, service, tokenizer):
    with await frontend.generate(request_from_wire(wire('{"enable_thinking": false}'))):
        assert list(service.requests[0].prompt_token_ids) == tokenizer.encode("Hi</think>")


@pytest.mark.parametrize("text", ["[]", "{", "5", '{"x": NaN}', f'{{"x": "{"x" * 2**15}"}}'])
def test_what_is_no_such_json(text):
    with pytest.raises(InvalidRequest) as caught:
        request_from_wire(wire(text))
    assert caught.value.param == FIELD
