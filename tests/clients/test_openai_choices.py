"""The `openai` package: several answers, log-probabilities, penalties, one model by its name."""

import math

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
NUM_TOKENS = 6


def test_one_model(client: OpenAI) -> None:
    for model in client.models.list().data:
        assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_several_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default", messages=HELLO, max_tokens=NUM_TOKENS, temperature=1, seed=3, n=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 3 * NUM_TOKENS


def test_several_answers_in_a_stream(client: OpenAI) -> None:
    sampled = {"max_tokens": NUM_TOKENS, "temperature": 1, "seed": 3, "n": 2}
    whole = client.chat.completions.create(model="default", messages=HELLO, extra_body=sampled)
    pieces = {0: "", 1: ""}
    for chunk in client.chat.completions.create(
        model="default", messages=HELLO, stream=True, extra_body=sampled
    ):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == {choice.index: choice.message.content for choice in whole.choices}


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=HELLO,
        max_tokens=NUM_TOKENS,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    # The token that ended the answer, if one did, has no text and may be left out.
    assert answer.usage.completion_tokens - len(logprobs.content) in (0, 1)
    text = b"".join(bytes(token.bytes or []) for token in logprobs.content).decode()
    assert text.startswith(answer.choices[0].message.content or "")
    for token in logprobs.content:
        top = [each.logprob for each in token.top_logprobs]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert token.logprob == pytest.approx(top[0])  # greedy
        assert sum(map(math.exp, top)) <= 1 + 1e-3


def test_log_probabilities_in_a_stream(client: OpenAI) -> None:
    tokens = []
    for chunk in client.chat.completions.create(
        model="default",
        messages=HELLO,
        max_tokens=NUM_TOKENS,
        temperature=0,
        logprobs=True,
        stream=True,
    ):
        for choice in chunk.choices:
            if choice.logprobs and choice.logprobs.content:
                tokens += choice.logprobs.content
    assert 0 < len(tokens) <= NUM_TOKENS
    assert all(token.logprob <= 0 for token in tokens)


def test_log_probabilities_of_a_plain_completion(client: OpenAI) -> None:
    answer = client.completions.create(
        model="default", prompt="One, two,", max_tokens=4, temperature=0, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.token_logprobs is not None
    assert all(each <= 0 for each in logprobs.token_logprobs)


@pytest.mark.model
def test_a_bias_forbids_a_token(real_url: str) -> None:
    prompt = "The capital of France is"
    likeliest = complete(real_url, prompt, max_tokens=1)
    (token_id,) = tokenize(real_url, likeliest)
    assert complete(real_url, prompt, max_tokens=1, logit_bias={str(token_id): -100}) != likeliest


@pytest.mark.model
@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_a_penalty_changes_what_is_said_again(real_url: str, penalty: str) -> None:
    # Sampled: among the likeliest alone, a token that leads by more than the penalty stays.
    def counting(value: float) -> str:
        fields = {"ignore_eos": True, "temperature": 1, "seed": 1, penalty: value}
        return complete(real_url, "One, two, one, two,", max_tokens=48, **fields)

    assert counting(0.0) == counting(0.0)
    assert counting(2.0) != counting(0.0)


def test_tokenize_and_detokenize(base_url: str) -> None:
    token_ids = tokenize(base_url, "Hello, world")
    body = {"model": "default", "tokens": token_ids}
    answer = httpx.post(base_url.removesuffix("/v1") + "/detokenize", json=body)
    assert answer.json()["prompt"] == "Hello, world"


def complete(base_url: str, prompt: str, *, max_tokens: int, **fields: object) -> str:
    """What a completion says, a greedy one if `fields` do not say otherwise."""
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        answer = client.completions.create(
            model="default",
            prompt=prompt,
            max_tokens=max_tokens,
            extra_body={"temperature": 0, **fields},
        )
    return answer.choices[0].text


def tokenize(base_url: str, text: str) -> list[int]:
    """vLLM's endpoint, which OpenAI's client does not know."""
    body = {"model": "default", "prompt": text, "add_special_tokens": False}
    answer = httpx.post(base_url.removesuffix("/v1") + "/tokenize", json=body)
    token_ids: list[int] = answer.json()["tokens"]
    return token_ids
