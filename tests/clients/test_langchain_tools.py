"""LangChain's tools and structured output, which are OpenAI's underneath."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI


class GetWeather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Rome"] = Field(description="where")
    is_detailed: bool = Field(description="whether at length")


@pytest.fixture
def chat(base_url: str) -> ChatOpenAI:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        base_url=base_url,
        api_key="none",  # type: ignore[arg-type]
        model="default",
        temperature=0,
        max_tokens=200,  # type: ignore[call-arg]
        max_retries=0,
    )


def test_a_bound_tool_is_called(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([GetWeather], tool_choice="GetWeather", parallel_tool_calls=False)
    (call,) = bound.invoke("What is the weather in Paris?").tool_calls
    assert call["name"] == "GetWeather"
    GetWeather.model_validate(call["args"])


def test_any_of_the_bound_tools(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([GetWeather], tool_choice="any")
    assert bound.invoke("What is the weather in Paris?").tool_calls


def test_a_call_in_a_stream(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([GetWeather], tool_choice="GetWeather", parallel_tool_calls=False)
    chunks = list(bound.stream("What is the weather in Paris?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    (call,) = whole.tool_calls
    GetWeather.model_validate(call["args"])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: ChatOpenAI, method: str) -> None:
    structured = chat.with_structured_output(GetWeather, method=method)  # type: ignore[arg-type]
    assert isinstance(structured.invoke("The weather in Paris, please."), GetWeather)
