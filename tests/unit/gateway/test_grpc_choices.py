"""The whole of the API by gRPC: several answers, log-probabilities, forms of answers, tools."""

from __future__ import annotations

import asyncio
import json

import pytest
from grpc_client import serving
from scripted_service import Pause, ended

import tandem
from tandem.client import LikelyToken, PromptToken, ScoredToken
from tandem.core.errors import InvalidRequest, ResourceExhausted
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason

USER = {"role": "user", "content": "Hi"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
async def client(frontend, service):
    async with serving(frontend, service) as address, tandem.AsyncClient(address) as client:
        yield client


async def test_n_answers(client, service, say):
    service.script = lambda request: say(f"I am {request.choice_index}")
    completion = await client.generate(prompt="Hi", n=3)
    assert [choice.text for choice in completion.choices] == ["I am 0", "I am 1", "I am 2"]
    assert completion.text == "I am 0"
    assert (completion.num_prompt_tokens, completion.num_tokens) == (2, 18)
    async with client.stream(prompt="Hi", n=3) as stream:
        texts = ["", "", ""]
        async for delta in stream:
            texts[delta.choice_index] += delta.text
    assert texts == [choice.text for choice in completion.choices]


@pytest.mark.parametrize("prompts", [{"prompt": ["a", "b"]}, {"token_ids": [[97], [98]]}])
async def test_several_prompts(client, service, say, prompts):
    service.script = lambda request: say(f"{request.prompt_token_ids[0]}.{request.choice_index}")
    completion = await client.generate(**prompts, n=2, echo=True)
    texts = ["a97.0", "a97.1", "b98.2", "b98.3"]
    assert [choice.text for choice in completion.choices] == texts
    assert completion.num_prompt_tokens == 2


async def test_logprobs(client, service, say):
    service.script = lambda request: say("H\u00e9")
    completion = await client.generate(prompt="Hi", logprobs=2)
    h = LikelyToken(72, b"H", -0.5)
    assert completion.logprobs[0] == ScoredToken(h, 0, (h, LikelyToken(71, b"G", -1.5)))
    assert [(each.token.text, each.text_offset) for each in completion.logprobs[1:]] == [
        (b"\xc3", 1),
        (b"\xa9", 1),
    ]
    assert (await client.generate(prompt="Hi")).logprobs == ()


async def test_logprobs_of_a_prompt(client, service, say):
    service.script = lambda request: say("!")
    completion = await client.generate(prompt="Hi", logprobs=1, echo=True)
    i = LikelyToken(105, b"i", -0.5)
    assert completion.prompt_logprobs == (
        PromptToken(72, b"H", 0, None, ()),
        PromptToken(105, b"i", 1, -0.5, (i,)),
    )
    assert (completion.text, completion.num_tokens) == ("Hi!", 1)
    assert [(each.token.text, each.text_offset) for each in completion.logprobs] == [(b"!", 2)]
    async with client.stream(prompt="Hi", logprobs=1, echo=True) as stream:
        deltas = [delta async for delta in stream]
    assert [len(each.prompt_logprobs) for each in deltas] == [0, 2, 0]
    assert (await client.generate(prompt="Hi", logprobs=1)).prompt_logprobs == ()
    service.script = lambda request: [ended()]
    alone = await client.generate(prompt="Hi", logprobs=1, echo=True, max_tokens=0)
    assert alone.prompt_logprobs == completion.prompt_logprobs
    assert (alone.text, alone.logprobs, alone.num_tokens) == ("Hi", (), 0)


async def test_all_parameters_reach_the_workers(client, service):
    params = {
        "max_tokens": 5,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 9,
        "min_p": 0.125,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.25,
        "seed": 7,
        "ignore_eos": True,
    }
    lists = {"stop_token_ids": [1, 2], "logit_bias": {7: -100, 3: 1.5}}
    await client.generate(prompt="Hi", **params, **lists)
    assert service.requests[0].params == SamplingParams(
        **params, stop_token_ids=frozenset({1, 2}), logit_bias=((3, 1.5), (7, -100.0))
    )


async def test_what_the_text_has(client, service, say):
    service.script = lambda request: [257, *say("Hello")]
    shown = {"stop": ["ll"], "include_stop": True, "skip_special_tokens": False}
    assert (await client.generate(prompt="Hi", **shown)).text == "<|im_start|>Hell"


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ({"json_object": True}, Grammar(GrammarKind.JSON_SCHEMA, '{"type":"object"}')),
        ({"json_object": False}, None),
        ({"json_schema": {"enum": [1]}}, Grammar(GrammarKind.JSON_SCHEMA, '{"enum": [1]}')),
        ({"json_schema": "{}"}, Grammar(GrammarKind.JSON_SCHEMA, "{}")),
        ({"regex": "a+"}, Grammar(GrammarKind.REGEX, "a+")),
        ({"grammar": "start: A"}, Grammar(GrammarKind.LARK, "start: A")),
        ({"choice": ["a", "b"]}, Grammar(GrammarKind.LARK, 'start: "a" | "b"\n')),
    ],
)
async def test_the_form_of_an_answer(client, service, form, grammar):
    await client.generate(prompt="Hi", **form)
    assert service.requests[0].params.grammar == grammar


async def test_a_call_and_its_result(client, service, say, tokenizer):
    service.script = lambda request: [*say(f"So. {CALL}")[:-1], ended(FinishReason.STOP)]
    completion = await client.generate(messages=[USER], tools=[TOOL])
    assert (completion.text, completion.finish_reason) == ("So.", "tool_calls")
    (call,) = completion.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    assert call.id.startswith("call_")
    answered = [
        USER,
        {"role": "assistant", "content": completion.text, "tool_calls": completion.tool_calls},
        {"role": "tool", "content": "sunny", "tool_call_id": call.id},
    ]
    await client.generate(messages=answered)
    prompt = tokenizer.decode(service.requests[-1].prompt_token_ids)
    assert "sunny" in prompt and "Paris" in prompt


async def test_a_streamed_call(client, service, say):
    service.script = lambda request: say(CALL)
    async with client.stream(messages=[USER], tools=[TOOL], parallel_tool_calls=False) as stream:
        pieces = [call async for delta in stream for call in delta.tool_calls]
        assert pieces[0].name == "get_weather" and not pieces[1].name
        assert "".join(piece.arguments for piece in pieces) == '{"city": "Paris"}'
        assert [call.name for call in stream.completion.tool_calls] == ["get_weather"]


@pytest.mark.parametrize(
    ("choice", "constrained"),
    [("auto", False), ("none", False), ("required", True), (NAMED, True)],
)
async def test_tool_choice(client, service, choice, constrained):
    await client.generate(messages=[USER], tools=[TOOL], tool_choice=choice)
    assert (service.requests[0].params.grammar is not None) == constrained


async def test_leaving_ends_all_choices(client, service):
    service.script = lambda request: [72, Pause.FOREVER]
    async with client.stream(prompt="Hi", n=4) as stream:
        await anext(stream)
    async with asyncio.timeout(10):
        for each in service.streams:
            await each.cancelled.wait()
    assert len(service.streams) == 4


async def test_one_failure_ends_all(client, service):
    error = ResourceExhausted("full", retry_after_s=1.0)
    service.script = lambda request: (
        [72, Pause.FOREVER] if request.choice_index else [72, Pause.A_MOMENT, error]
    )
    with pytest.raises(ResourceExhausted, match="full"):
        await client.generate(prompt="Hi", n=3)
    assert all(each.cancelled.is_set() for each in service.streams[1:])


async def test_tokens_and_their_text(client, service, tokenizer):
    token_ids = await client.tokenize(prompt="H\u00e9")
    assert token_ids == [72, 0xC3, 0xA9]
    assert await client.detokenize([257, *token_ids]) == "<|im_start|>H\u00e9"
    for fields in ({}, {"tools": [TOOL]}):
        token_ids = await client.tokenize(messages=[USER], **fields)
        await client.generate(messages=[USER], **fields)
        assert token_ids == list(service.requests[-1].prompt_token_ids)
    developer = {"role": "developer", "content": "Be brief."}
    system = {"role": "system", "content": "Be brief."}
    assert await client.tokenize(messages=[developer]) == await client.tokenize(messages=[system])
    token_ids = await client.tokenize(messages=[USER], add_generation_prompt=False)
    assert tokenizer.decode(token_ids, False) == "<|im_start|>user\nHi<|im_end|>\n"


async def test_bad_texts_and_tokens(client):
    for call, param in [
        (client.tokenize(prompt="x" * (2**20 + 1)), "prompt"),
        (client.tokenize(messages=[]), "messages"),
        (client.tokenize(messages=[USER], tools=[TOOL] * 2), "tools"),
        (client.tokenize(prompt="Hi", tools=[TOOL]), "tools"),
        (client.detokenize([260]), "tokens"),
    ]:
        with pytest.raises(InvalidRequest) as caught:
            await call
        assert caught.value.param == param


async def test_an_echo_alone_was_served_by_nobody(client, service):
    completion = await client.generate(prompt="Hi", echo=True, max_tokens=0)
    assert completion.text == "Hi"
    assert (completion.served_by.mode, completion.served_by.prefill_worker) == ("none", "")
    assert not service.requests
