"""The `openai` package: tools that the model calls. What makes a small model call one is that it
must: `required`, or the tool's name."""

import json

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

ASK: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the weather in Paris?"}
]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_made(client: OpenAI, choice: object) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=ASK,
        tools=[WEATHER],
        tool_choice=choice,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=200,
    )
    message = answer.choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Rome")
    assert set(arguments) == {"city", "unit"}


def test_a_call_in_a_stream(client: OpenAI) -> None:
    name, arguments, ids, ends = "", "", set(), set()
    for chunk in client.chat.completions.create(
        model="default",
        messages=ASK,
        tools=[WEATHER],
        tool_choice=NAMED,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=200,
        stream=True,
    ):
        for choice in chunk.choices:
            ends |= {choice.finish_reason} - {None}
            for call in choice.delta.tool_calls or []:
                assert call.index == 0
                ids |= {call.id} - {None}
                if call.function:
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    assert name == "get_weather"
    assert len(ids) == 1
    assert json.loads(arguments)["city"] in ("Paris", "Rome")
    assert ends == {"stop"}


def test_a_tools_answer_goes_back(client: OpenAI) -> None:
    first = client.chat.completions.create(
        model="default",
        messages=ASK,
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=200,
    )
    message = first.choices[0].message
    assert message.tool_calls
    answer = client.chat.completions.create(
        model="default",
        messages=[
            *ASK,
            message.model_dump(exclude_none=True),  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 20 C"},
        ],
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=12,
    )
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_a_tool_that_is_not_offered(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="default",
            messages=ASK,
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "get_time"}},
        )
    assert caught.value.param == "tool_choice"


@pytest.mark.model
def test_the_model_may_answer_in_words(real_url: str) -> None:
    client = OpenAI(base_url=real_url, api_key="none", max_retries=0)
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Say hello."}],
        tools=[WEATHER],
        tool_choice="auto",
        temperature=0,
        max_tokens=24,
    )
    message = answer.choices[0].message
    assert message.content or message.tool_calls
