"""The whole API through real processes: what a client asks for is what the engines do."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio
from running_gateway import Gateway, running_gateway

import tandem

CHAT = [{"role": "user", "content": "Hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    async with running_gateway("mock:zero") as gateway:
        yield gateway


pytestmark = pytest.mark.asyncio(loop_scope="module")


def client_of(gateway: Gateway) -> openai.AsyncOpenAI:
    url = f"http://127.0.0.1:{gateway.http_port}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)


async def test_n_answers_differ_and_can_be_repeated(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        fields = {"model": "mock", "messages": CHAT, "n": 3, "seed": 7, "max_tokens": 12}
        first = await client.chat.completions.create(**fields)
        texts = [choice.message.content for choice in first.choices]
        assert len(set(texts)) == 3
        assert first.usage and first.usage.completion_tokens == 36
        pieces = ["", "", ""]
        async for chunk in await client.chat.completions.create(**fields, stream=True):
            for choice in chunk.choices:
                pieces[choice.index] += choice.delta.content or ""
        assert pieces == texts


async def test_logprobs_belong_to_the_answer(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        answer = await client.chat.completions.create(
            model="mock", messages=CHAT, max_tokens=8, logprobs=True, top_logprobs=3
        )
    (choice,) = answer.choices
    assert choice.logprobs and choice.logprobs.content
    assert "".join(each.token for each in choice.logprobs.content) == choice.message.content
    for each in choice.logprobs.content:
        assert len(each.top_logprobs) == 3
        logprobs = [top.logprob for top in each.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
        assert each.logprob <= logprobs[0] <= 0


async def test_an_echo_says_how_likely_its_prompt_was(gateway: Gateway) -> None:
    """As lm-eval asks. What a mock GPU generates are letters: all are equally likely, and nothing
    else is."""
    prompts = [[200, *b"ab", 200, *b"c"], [*b"d", 201]]
    letter, other = pytest.approx(-math.log(95)), -9999.0
    async with client_of(gateway) as client:
        answer = await client.completions.create(
            model="mock", prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1
        )
    first, second = (choice.logprobs for choice in answer.choices)
    assert first and second
    assert first.token_logprobs == [None, letter, letter, other, letter, letter]
    assert second.token_logprobs == [None, other, letter]
    assert first.top_logprobs and first.top_logprobs[0] is None
    assert max(first.top_logprobs[3].values()) == letter
    assert answer.usage and answer.usage.completion_tokens == 2
    async with tandem.AsyncClient(gateway.grpc_address) as client:
        scored = await client.generate(token_ids=prompts, max_tokens=0, logprobs=1, echo=True)
    told = [[each.logprob for each in choice.prompt_logprobs] for choice in scored.choices]
    assert told == [first.token_logprobs[:-1], second.token_logprobs[:-1]]


async def test_a_prompt_is_scored_once_for_all_its_answers(gateway: Gateway) -> None:
    """The others have it from the cache, which what is scored does not ask."""
    prompt = [*b"abcd"] * 16
    async with tandem.AsyncClient(gateway.grpc_address) as client:
        fields = {"max_tokens": 3, "logprobs": 1, "echo": True, "seed": 1}
        alone = await client.generate(token_ids=prompt, **fields)
        several = await client.generate(token_ids=prompt, n=3, **fields)
    assert [each.prompt_logprobs for each in several.choices] == [alone.prompt_logprobs] * 3
    assert several.choices[0].logprobs == alone.logprobs
    assert [each.served_by.num_cached_tokens for each in several.choices] == [0, 48, 48]


async def test_an_answer_matches_its_schema(gateway: Gateway) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    async with client_of(gateway) as client:
        answer = await client.chat.completions.create(
            model="mock",
            messages=CHAT,
            max_tokens=200,
            n=4,
            response_format=form,  # type: ignore[arg-type]
        )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        trip = json.loads(choice.message.content or "")
        assert trip["city"] in ("Paris", "Rome")
        assert isinstance(trip["days"], int)


async def test_a_required_call_is_valid(gateway: Gateway) -> None:
    with_tools = {"messages": CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 300}
    async with (
        tandem.AsyncClient(gateway.grpc_address) as client,
        client.stream(**with_tools, parallel_tool_calls=False) as stream,
    ):
        pieces = [call async for delta in stream for call in delta.tool_calls]
        completion = stream.completion
    (call,) = completion.tool_calls
    assert completion.finish_reason == "tool_calls"
    assert (completion.text, call.name) == ("", "get_weather")
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    assert len(pieces) > 5


async def test_a_choice_is_one_of_those_given(gateway: Gateway) -> None:
    async with tandem.AsyncClient(gateway.grpc_address) as client:
        completion = await client.generate(prompt="Hi", choice=["yes", "no"], n=8)
    assert {choice.text for choice in completion.choices} <= {"yes", "no"}
