"""`langchain-openai`'s ChatOpenAI against Tandem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

NUM_TOKENS = 8


@pytest.fixture
def chat(base_url: str) -> ChatOpenAI:
    # Here and not above, since it is installed by `make test-clients` only.
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        base_url=base_url,
        api_key="none",  # type: ignore[arg-type]
        model="default",
        temperature=0,
        max_tokens=NUM_TOKENS,  # type: ignore[call-arg]
        max_retries=0,
        stream_usage=True,
    )


def test_invoke(chat: ChatOpenAI) -> None:
    answer = chat.invoke([("system", "Be brief."), ("human", "Say hello.")])
    assert answer.text
    assert answer.usage_metadata is not None
    assert 0 < answer.usage_metadata["output_tokens"] <= NUM_TOKENS
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


def test_stream(chat: ChatOpenAI) -> None:
    chunks = list(chat.stream("Say hello."))
    assert "".join(chunk.text for chunk in chunks) == chat.invoke("Say hello.").text
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert len(usages) == 1


async def test_astream(chat: ChatOpenAI) -> None:
    pieces = [chunk.text async for chunk in chat.astream("Say hello.")]
    assert "".join(pieces) == (await chat.ainvoke("Say hello.")).text


def test_batch(chat: ChatOpenAI) -> None:
    questions = [f"What is {number} and one?" for number in range(4)]
    answers = chat.batch(questions)
    assert [answer.text for answer in answers] == [chat.invoke(each).text for each in questions]


def test_a_conversation(chat: ChatOpenAI) -> None:
    from langchain_core.messages import AIMessage, HumanMessage

    first = chat.invoke([HumanMessage("Say hello.")])
    assert isinstance(first, AIMessage)
    assert chat.invoke([HumanMessage("Say hello."), first, HumanMessage("And again.")]).text


def test_stop(chat: ChatOpenAI) -> None:
    text = chat.invoke("Say hello.").text
    stop = text[2:4]
    assert chat.invoke("Say hello.", stop=[stop]).text == text[: text.index(stop)]


def test_a_chain(chat: ChatOpenAI) -> None:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    prompt = ChatPromptTemplate.from_messages([("human", "Translate {word} into French.")])
    chain = prompt | chat | StrOutputParser()
    assert chain.invoke({"word": "cat"}) == chat.invoke("Translate cat into French.").text
