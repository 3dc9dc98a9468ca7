"""The `openai` package: answers in a given form."""

import json
from typing import Literal

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

ASK: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the weather in Paris? Answer in JSON."}
]


class Weather(BaseModel):
    """All of it bounded, so that also a model that says anything comes to an end."""

    sky: Literal["clear", "cloudy", "rain"]
    is_warm: bool


SCHEMA = {
    "name": "weather",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {
            "sky": {"enum": ["clear", "cloudy", "rain"]},
            "is_warm": {"type": "boolean"},
        },
        "required": ["sky", "is_warm"],
        "additionalProperties": False,
    },
}


def test_parse_into_a_class(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="default", messages=ASK, response_format=Weather, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_schema_is_kept_to(client: OpenAI, temperature: float) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=ASK,
        response_format={"type": "json_schema", "json_schema": SCHEMA},  # type: ignore[typeddict-item]
        temperature=temperature,
        seed=1,
        max_tokens=200,
    )
    assert answer.choices[0].finish_reason == "stop"
    Weather.model_validate_json(answer.choices[0].message.content or "", strict=True)


def test_a_schema_in_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="default", messages=ASK, response_format=Weather, max_tokens=200
    ) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)


@pytest.mark.model
def test_any_json_object(real_url: str) -> None:
    client = OpenAI(base_url=real_url, api_key="none", max_retries=0)
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": 'Repeat this JSON: {"a": 1}'}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=200,
    )
    content = answer.choices[0].message.content or ""
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    assert content.lstrip().startswith("{")
