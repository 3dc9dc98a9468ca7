"""What no client of ours would send by gRPC is refused before any work, and others are served."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_client import GENERATE, code_of, serving

from gateway.service import MAX_REQUEST_BYTES
from tandem.artifacts.grammars import GrammarCompiler
from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2, sampling_pb2
from tandem.wire.status import call_error, to_tandem_error

NAN, INF = float("nan"), float("inf")
TOOL = inference_pb2.Tool(name="f", parameters="{}")
USER = inference_pb2.ChatMessage(role="user", content="Hi")
CHAT = inference_pb2.Chat(messages=[USER])
# What an error calls a field whose name is another by HTTP.
NAMES = {
    **dict.fromkeys(("text", "texts", "token_ids", "token_id_lists"), "prompt"),
    "chat": "messages",
    "num_choices": "n",
    "answer_form": "response_format",
}
Code = grpc.StatusCode


def deep(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


def form(**fields: Any) -> dict[str, Any]:
    return {"answer_form": inference_pb2.AnswerForm(**fields)}


def chat(*messages: inference_pb2.ChatMessage) -> dict[str, Any]:
    return {"chat": inference_pb2.Chat(messages=messages)}


@pytest.fixture
def grammars(tokenizer):
    return GrammarCompiler(tokenizer, 260, frozenset({256}))


@pytest.fixture
async def channel(frontend, service):
    # Without our own limits, which are lower than what the server is to be shown here.
    unbounded = [("grpc.max_send_message_length", -1)]
    async with (
        serving(frontend, service) as address,
        grpc.aio.insecure_channel(address, options=unbounded) as channel,
    ):
        yield channel


async def assert_serves(channel: grpc.aio.Channel, service, num_before: int = 0) -> None:
    assert len(service.requests) == num_before
    sound = inference_pb2.GenerateRequest(text="Hi")
    assert await code_of(channel, sound.SerializeToString()) is Code.OK


@pytest.mark.parametrize(
    "fields",
    [
        *({name: value} for name in ("temperature", "top_p", "min_p") for value in (NAN, INF, -1)),
        *({f"{name}_penalty": NAN} for name in ("presence", "frequency", "repetition")),
        {"presence_penalty": -2.5},
        {"frequency_penalty": INF},
        {"repetition_penalty": 0},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": 2**31},
        {"min_tokens": 10**9},
        {"echo": True, "max_tokens": 0, "logprobs": 0, "min_tokens": 1},
        {"max_tokens": 0},
        {"num_choices": 0},
        {"num_choices": 129},
        {"num_choices": 10**9},
        {"seed": 2**64 - 1},
        {"logprobs": 21},
        {"echo": True, "logprobs": 21},
        {"chat": CHAT, "logprobs": 1, "echo": True},
        {"stop": ["x"] * 500_000},
        {"stop": ["x" * 257]},
        {"stop": [""]},
        {"stop_token_ids": [260]},
        {"stop_token_ids": [2**32 - 1]},
        {"stop_token_ids": [1] * 65},
        {"logit_bias": [sampling_pb2.LogitBias(token_id=260, bias=1)]},
        {"logit_bias": [sampling_pb2.LogitBias(token_id=1, bias=NAN)]},
        {"logit_bias": [sampling_pb2.LogitBias(token_id=1, bias=101)]},
        {"logit_bias": [sampling_pb2.LogitBias()] * 60_000},
        {"cache_salt": "x" * 257},
        {"request_id": "a b"},
        {"request_id": "a\nb"},
        {"request_id": "x" * 129},
        {"priority": 1001},
        {"priority": -(2**31)},
        {"text": None},
        {"text": ""},
        {"text": "x" * 2**20 + "x"},
        {"token_ids": inference_pb2.TokenIds(ids=[])},
        {"token_ids": inference_pb2.TokenIds(ids=[260])},
        {"token_ids": inference_pb2.TokenIds(ids=[1] * 10**6)},
        {"texts": inference_pb2.Texts(texts=[])},
        {"texts": inference_pb2.Texts(texts=["a", ""])},
        {"texts": inference_pb2.Texts(texts=["a"] * 129)},
        {"texts": inference_pb2.Texts(texts=["x" * 600_000] * 2)},
        {"texts": inference_pb2.Texts(texts=["a"] * 64), "num_choices": 64},
        {"token_id_lists": inference_pb2.TokenIdLists(lists=[inference_pb2.TokenIds()])},
        chat(),
        chat(*[USER] * 2049),
        chat(inference_pb2.ChatMessage(role="god")),
        chat(*[inference_pb2.ChatMessage(role="user", content="x" * 600_000)] * 2),
        chat(inference_pb2.ChatMessage(role="user", tool_call_id="a")),
        chat(inference_pb2.ChatMessage(role="user", tool_calls=[inference_pb2.ToolCall()])),
        {"chat": CHAT, "tools": [TOOL] * 129},
        {"chat": CHAT, "tools": [TOOL, TOOL]},
        {"chat": CHAT, "tools": [inference_pb2.Tool(name="a b")]},
        {"chat": CHAT, "tools": [inference_pb2.Tool(name="f", parameters="{")]},
        {"chat": CHAT, "tools": [inference_pb2.Tool(name="f", parameters=deep(10_000))]},
        {"chat": CHAT, "tool_choice": inference_pb2.ToolChoice(name="f")},
        {"tools": [TOOL]},
        form(json_schema=""),
        form(json_schema="["),
        form(json_schema=deep(100)),
        form(json_schema=deep(10_000)),
        form(json_schema='{"a":' * 10_000 + "1" + "}" * 10_000),
        form(json_schema='{"$ref": "http://127.0.0.1/x"}'),
        form(json_schema='{"$ref": "file:///etc/passwd"}'),
        form(json_schema='{"$ref": "#"}'),
        form(regex=""),
        form(regex="("),
        form(regex="(" * 10_000),
        form(regex="(?=a)b"),
        form(regex="x" * 10**6),
        form(lark="start: start"),
        form(lark="start: " + "(" * 5000 + '"a"' + ")" * 5000),
        form(one_of=inference_pb2.Texts()),
        form(one_of=inference_pb2.Texts(texts=["a"] * 2000)),
        form(one_of=inference_pb2.Texts(texts=["a"] * 10**5)),
    ],
    ids=",".join,
)
async def test_a_bad_value(channel, service, logs, fields):
    message = inference_pb2.GenerateRequest(**{"text": "Hi", **fields})
    call = channel.unary_stream(GENERATE)(message.SerializeToString(), timeout=30)
    error = to_tandem_error(await call_error(call))
    *_, wrong = fields  # the last one
    assert (type(error), error.param) == (InvalidRequest, NAMES.get(wrong, wrong))
    assert not logs
    await assert_serves(channel, service)


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x12\x02\xff\xfe",  # a prompt that is not UTF-8
        b"\x12\x03\xed\xa0\x80",  # a lone surrogate
        b"\xa3\x06" * 10_000 + b"\xa4\x06" * 10_000,  # groups in groups
        b"\x22" + b"\x80" * 20,
    ],
)
async def test_what_is_no_message(channel, service, message):
    # gRPC's own answer: none of ours is asked.
    assert await code_of(channel, message) is Code.UNKNOWN
    await assert_serves(channel, service)


async def test_a_message_that_is_too_large_is_not_read(channel, service):
    message = inference_pb2.GenerateRequest(text="x" * (MAX_REQUEST_BYTES + 1))
    code = await code_of(channel, message.SerializeToString())
    assert code is Code.RESOURCE_EXHAUSTED
    await assert_serves(channel, service)


async def test_metadata_that_is_too_large_is_not_read(channel, service):
    sound = inference_pb2.GenerateRequest(text="Hi").SerializeToString()
    call = channel.unary_stream(GENERATE)(sound, metadata=(("x", "y" * 2**20),), timeout=30)
    assert await call.code() is Code.RESOURCE_EXHAUSTED
    await assert_serves(channel, service)


@pytest.mark.parametrize("method", ["/tandem.v1.InferenceService/Nope", "/nope/Generate", "/"])
async def test_a_method_that_is_not_there(channel, service, method):
    assert await code_of(channel, b"", method) is Code.UNIMPLEMENTED
    await assert_serves(channel, service)


@pytest.mark.parametrize("model", ["gpt", "x" * 10**6, "\x1b[2J"])
async def test_a_model_that_is_not_served(channel, service, model):
    message = inference_pb2.GenerateRequest(text="Hi", model=model)
    assert await code_of(channel, message.SerializeToString()) is Code.NOT_FOUND
    await assert_serves(channel, service)


@pytest.mark.parametrize(
    "request_",
    [
        inference_pb2.TokenizeRequest(),
        inference_pb2.TokenizeRequest(chat=CHAT, tools=[TOOL] * 129),
    ],
)
async def test_bad_tokenizing(channel, service, request_):
    method = "/tandem.v1.InferenceService/Tokenize"
    code = await code_of(channel, request_.SerializeToString(), method)
    assert code is Code.INVALID_ARGUMENT
    await assert_serves(channel, service)
