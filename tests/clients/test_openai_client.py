"""The `openai` package against Tandem: what its users do all day."""

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
NUM_TOKENS = 12


def test_models(client: OpenAI) -> None:
    models = client.models.list().data
    assert "default" in [model.id for model in models]
    for model in models:
        assert model.object == "model"
        assert model.model_extra
        assert model.model_extra["max_model_len"] > 0


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_chat_completion(client: OpenAI, field: str) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
        temperature=0,
        extra_body={"ignore_eos": True},
        **{field: NUM_TOKENS},  # type: ignore[call-overload]
    )
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    assert choice.message.content
    assert answer.object == "chat.completion"
    assert answer.usage.completion_tokens == NUM_TOKENS
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + NUM_TOKENS


def test_a_stream_says_the_same_as_a_whole_answer(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model="default", messages=HELLO, max_completion_tokens=NUM_TOKENS, temperature=0
    )
    stream = client.chat.completions.create(
        model="default",
        messages=HELLO,
        max_completion_tokens=NUM_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.id for chunk in chunks} == {last.id}
    assert last.choices == []
    assert last.usage is not None
    assert whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_a_stream_without_usage_has_a_choice_in_every_chunk(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default", messages=HELLO, max_tokens=4, stream=True
    )
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in stream)


def test_the_helper_that_puts_a_stream_together(client: OpenAI) -> None:
    def content_of(stop: str | None) -> str:
        with client.chat.completions.stream(
            model="default", messages=HELLO, max_tokens=NUM_TOKENS, temperature=0, stop=stop
        ) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            if stop:
                # The helper takes an answer of the full length for one that was cut off.
                assert stream.get_final_completion().choices[0].message.content == "".join(pieces)
        return "".join(pieces)

    text = content_of(None)
    assert content_of(text[4:6]) == text[: text.index(text[4:6])]


def test_a_stream_that_the_client_leaves(client: OpenAI) -> None:
    with client.chat.completions.create(
        model="default", messages=HELLO, max_tokens=512, stream=True
    ) as stream:
        next(stream)
    assert client.chat.completions.create(model="default", messages=HELLO, max_tokens=1).choices


@pytest.mark.parametrize("prompt", ["Once upon a time", [40, 41, 42]])
def test_a_plain_completion(client: OpenAI, prompt: str | list[int]) -> None:
    answer = client.completions.create(
        model="default", prompt=prompt, max_tokens=NUM_TOKENS, temperature=0
    )
    assert answer.object == "text_completion"
    stream = client.completions.create(
        model="default", prompt=prompt, max_tokens=NUM_TOKENS, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_a_seed_makes_a_sample_repeatable(client: OpenAI) -> None:
    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="default", messages=HELLO, max_tokens=16, temperature=1, top_p=0.95, seed=seed
        )
        return answer.choices[0].message.content

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_a_stop_string_is_not_part_of_the_answer(client: OpenAI) -> None:
    def answer(stop: str | None) -> tuple[str, str]:
        (choice,) = client.chat.completions.create(
            model="default",
            messages=HELLO,
            max_tokens=NUM_TOKENS,
            temperature=0,
            stop=stop,
            extra_body={"ignore_eos": True},
        ).choices
        return choice.message.content or "", choice.finish_reason

    text, _ = answer(None)
    stop = text[3:5]
    assert answer(stop) == (text[: text.index(stop)], "stop")


def test_content_in_parts_and_the_developers_role(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
        ],
        max_tokens=2,
    )
    assert answer.choices


def test_who_served_it_is_an_extra_field(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=HELLO, max_tokens=4)
    assert answer.model_extra
    assert answer.model_extra["tandem"]["decode_worker"].startswith("decode-")


def test_a_request_id_comes_back(client: OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="default", messages=HELLO, max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.parse()._request_id == "mine-1"


def test_a_model_that_is_not_there(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_wrong_field_is_named(client: OpenAI, fields: dict[str, object], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=HELLO, extra_body=fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_a_prompt_that_is_too_long(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="default", prompt="one two three " * 20_000)
    assert caught.value.code == "context_length_exceeded"


def test_an_error_in_a_stream_comes_before_it(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="default", messages=[], stream=True)


async def test_many_at_once(base_url: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="none", timeout=100) as client:

        async def one(number: int) -> tuple[str, str]:
            messages: list[ChatCompletionMessageParam] = [
                {"role": "user", "content": f"Count to {number}."}
            ]
            whole = await client.chat.completions.create(
                model="default", messages=messages, max_tokens=6, temperature=0
            )
            stream = await client.chat.completions.create(
                model="default", messages=messages, max_tokens=6, temperature=0, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content or "", "".join(pieces)

        answers = await asyncio.gather(*map(one, range(8)))
    assert all(whole == streamed for whole, streamed in answers)
