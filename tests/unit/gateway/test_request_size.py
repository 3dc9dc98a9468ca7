"""What a request adds up to is known before anything is made of it: nothing holds others up."""

from __future__ import annotations

import grpc
import pytest
from grpc_client import serving
from http_client import CHAT_PATH, TEXT_PATH, assert_refused
from hypothesis import given
from hypothesis import strategies as st

from gateway.frontend import Frontend
from gateway.grpc_request import request_from_wire, tokenize_prompt
from gateway.grpc_size import MAX_FIELDS, METHODS, SizeLimit, num_fields
from gateway.limits import MAX_MESSAGES, MAX_PARTS, MAX_PROMPT_TOKENS, MAX_TOOL_CALLS
from gateway.request import GenerationRequest, TokenPrompt
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2
from tandem.v1.inference_pb2 import AnswerForm, Chat, ChatMessage, Texts, TokenIdLists, TokenIds

GENERATE, TOKENIZE = METHODS
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
ALL_CALLS = Chat(
    messages=[
        ChatMessage(role="assistant", tool_calls=[inference_pb2.ToolCall()] * MAX_TOOL_CALLS)
        for _ in range(MAX_PARTS // MAX_TOOL_CALLS)
    ]
)


def delimited(field: int, content: bytes) -> bytes:
    """A field of a message, of less than 2 GiB."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


# Before it is parsed


@pytest.mark.parametrize(
    ("message", "num"),
    [
        (inference_pb2.GenerateRequest(), 0),
        (inference_pb2.GenerateRequest(text="x" * 1000, temperature=0.5, seed=2**63), 3),
        (inference_pb2.GenerateRequest(text="Hi", stop=["a", "b"], stop_token_ids=[1] * 9), 4),
        (inference_pb2.GenerateRequest(token_ids=TokenIds(ids=[300] * 1000)), 1),
        (inference_pb2.GenerateRequest(texts=Texts(texts=["a"] * 20)), 21),
        (
            inference_pb2.GenerateRequest(
                token_id_lists=TokenIdLists(lists=[TokenIds(ids=[1])] * 7)
            ),
            8,
        ),
        (
            inference_pb2.GenerateRequest(
                chat=Chat(
                    messages=[
                        ChatMessage(role="user", content="x" * 200),
                        ChatMessage(role="assistant", tool_calls=[inference_pb2.ToolCall()] * 5),
                    ]
                ),
                answer_form=AnswerForm(one_of=Texts(texts=["a"] * 3)),
            ),
            # The conversation, two messages with two and six fields; the form, its kind, the texts.
            1 + 2 + 2 + 6 + 1 + 1 + 3,
        ),
    ],
)
def test_fields_are_counted(message, num):
    assert num_fields(message.SerializeToString(), METHODS[GENERATE]) == num


def test_it_is_not_read_further_than_it_can_be_right():
    assert num_fields(b"\x22\x00" * 2**20, METHODS[GENERATE]) == MAX_FIELDS + 1
    calls = delimited(4, delimited(1, b"\x22\x00" * 2**20))
    assert num_fields(calls, METHODS[GENERATE]) == MAX_FIELDS + 1
    assert num_fields(delimited(3, delimited(1, b"\x22\x00" * 2**20)), METHODS[TOKENIZE]) == (
        MAX_FIELDS + 1
    )


@given(st.binary(max_size=200))
@pytest.mark.parametrize(
    "prefix", [b"", b"\xff" * 100_000, b"\x22\xff\xff\xff\xff\x0f", b"\xa3\x06"]
)
def test_what_is_no_message_is_the_parsers_matter(prefix, data):
    assert num_fields(prefix + data, METHODS[GENERATE]) <= MAX_FIELDS + 1


@pytest.fixture
async def channel(service, frontend):
    async with (
        serving(frontend, service, [SizeLimit()]) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (GENERATE, delimited(4, delimited(1, b"\x22\x00" * 2**21))),
        (GENERATE, delimited(4, b"\x0a\x00" * 2**21)),
        (GENERATE, delimited(30, b"\x0a\x00" * 2**21)),
        (GENERATE, delimited(22, delimited(5, b"\x0a\x00" * 2**21))),
        (GENERATE, b"\x5a\x00" * 2**21),
        (TOKENIZE, delimited(3, delimited(1, b"\x22\x00" * 2**21))),
        (TOKENIZE, b"\x22\x00" * 2**21),
    ],
)
async def test_a_message_of_too_many_parts_is_not_parsed(channel, service, method, message):
    call = channel.unary_unary if method == TOKENIZE else channel.unary_stream
    answer = call(method)(message, timeout=30)
    assert await answer.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "fields" in await answer.details()
    # Others are, large ones as well.
    large = inference_pb2.TokenizeRequest(text="x" * 2**20)
    answer = channel.unary_unary(TOKENIZE)(large.SerializeToString(), timeout=30)
    assert await answer.code() is grpc.StatusCode.OK


# Before anything is made of it


@pytest.mark.parametrize(
    "read",
    [
        lambda: request_from_wire(inference_pb2.GenerateRequest(chat=ALL_CALLS)),
        lambda: tokenize_prompt(inference_pb2.TokenizeRequest(chat=ALL_CALLS)),
    ],
)
def test_calls_are_counted_over_all_messages(monkeypatch, read):
    monkeypatch.delattr("gateway.grpc_request.ToolCall")
    monkeypatch.delattr("gateway.grpc_request.ChatMessage")
    assert len(ALL_CALLS.messages) < MAX_MESSAGES
    with pytest.raises(InvalidRequest, match=f"at most {MAX_PARTS} entries") as caught:
        read()
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "fields",
    [
        {"token_ids": TokenIds(ids=[1] * (MAX_PROMPT_TOKENS + 1))},
        {
            "token_id_lists": TokenIdLists(
                lists=[TokenIds(ids=[1] * (MAX_PROMPT_TOKENS // 64))] * 65
            )
        },
    ],
)
def test_tokens_are_counted_over_all_prompts(monkeypatch, fields):
    monkeypatch.delattr("gateway.grpc_request.TokenPrompt")
    with pytest.raises(InvalidRequest, match=f"at most {MAX_PROMPT_TOKENS} tokens") as caught:
        request_from_wire(inference_pb2.GenerateRequest(**fields))
    assert caught.value.param == "prompt"


async def test_so_they_are_by_http(client, service, monkeypatch):
    message = {"role": "assistant", "content": "", "tool_calls": [CALL] * MAX_TOOL_CALLS}
    messages = [message] * (MAX_PARTS // MAX_TOOL_CALLS)
    monkeypatch.delattr("gateway.http.schemas.chat.ChatMessage")
    monkeypatch.delattr("gateway.http.schemas.completion.TokenPrompt")
    for path in (CHAT_PATH, "/tokenize"):
        response = await client.post(path, json={"messages": messages})
        assert_refused(response, 400, "messages")
        assert f"at most {MAX_PARTS}" in response.text
    lists = [[1] * (MAX_PROMPT_TOKENS // 64)] * 65
    response = await client.post(TEXT_PATH, json={"prompt": lists})
    assert_refused(response, 400, "prompt")
    assert f"at most {MAX_PROMPT_TOKENS}" in response.text


# Once is enough


async def test_what_came_as_tokens_is_looked_through_once(service, frontend: Frontend, monkeypatch):
    monkeypatch.delattr("gateway.frontend.check_ids")
    with await frontend.generate(GenerationRequest(prompts=(TokenPrompt((72, 105)),))):
        assert service.requests
    with pytest.raises(InvalidRequest, match="token ids"):
        await frontend.generate(GenerationRequest(prompts=(TokenPrompt((72, 260)),)))
