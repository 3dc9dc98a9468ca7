"""Large answers, of which others need not wait for the end."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import orjson
import pytest
from http_client import counted_turns, sent_by
from starlette.types import Message

from gateway.answer import Answer
from gateway.choice import Choice
from gateway.generation_streams import GenerationStream
from gateway.http.formats.answer_format import AnswerFormat
from gateway.http.formats.chat import ChatFormat
from gateway.http.formats.completion import CompletionFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.parts import MAX_PIECES, PART_BYTES, in_parts
from gateway.http.whole import whole_answer
from gateway.text import TokenText
from gateway.tokens import Ended, ServedBy, Token
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.logprobs import TokenLogprobs
from tandem.core.sequence import FinishReason

ENDED = Ended(FinishReason.LENGTH, ServedBy("prefill-0", "decode-0"))
NUM_TOP = 20
ENVELOPE = Envelope("", "", 0, "")


def letter(token_id: int) -> bytes:
    return bytes([token_id])


CHAT, COMPLETION = ChatFormat(letter), CompletionFormat(letter)


def large_answer(tokenizer: Tokenizer, num_choices: int, num_tokens: int) -> Answer:
    """With the log-probabilities of all tokens, which are there already."""
    streams = [GenerationStream(Mock(), Mock()) for _ in range(num_choices)]
    logprobs = TokenLogprobs.of(-0.5, range(97, 97 + NUM_TOP), [-0.5] * NUM_TOP)
    for stream in streams:
        for position in range(num_tokens):
            stream.put(Token(position, 97 + position % NUM_TOP, logprobs))
        stream.put(ENDED)
    choices = [
        Choice(each, stream, TokenText(tokenizer.decode_stream()))
        for each, stream in enumerate(streams)
    ]
    return Answer(
        request_id="", model="", num_prompt_tokens=1, choices=choices, on_close=lambda: None
    )


@pytest.mark.parametrize("form", [CHAT, COMPLETION])
async def test_a_large_answer_is_sent_in_parts_between_which_others_go_on(
    tokenizer, form: AnswerFormat
):
    num_choices, num_tokens = 3, 600
    written_in: list[int] = []
    with counted_turns() as turns:
        answer = large_answer(tokenizer, num_choices, num_tokens)
        response = await whole_answer(answer, form, ENVELOPE)
        start, *bodies = await sent_by(response, lambda: written_in.append(len(turns)))
    parts = [message["body"] for message in bodies]
    assert len(parts) > 2
    # Never more than one piece too much: it is what is told of a few tokens.
    assert max(map(len, parts)) < 1.5 * PART_BYTES
    assert len(set(written_in)) == len(parts)
    assert [message["more_body"] for message in bodies] == [True] * (len(parts) - 1) + [False]
    whole = b"".join(parts)
    assert start["headers"] == [
        (b"content-length", str(len(whole)).encode()),
        (b"content-type", b"application/json"),
    ]
    told = orjson.loads(whole)
    assert whole == orjson.dumps(told)
    assert [each["index"] for each in told["choices"]] == list(range(num_choices))
    for choice in told["choices"]:
        logprobs = choice["logprobs"]
        tokens = logprobs.get("tokens") or [each["token"] for each in logprobs["content"]]
        assert "".join(tokens) == "abcdefghijklmnopqrst" * (num_tokens // NUM_TOP)
    assert told["usage"]["completion_tokens"] == num_choices * num_tokens


async def test_who_reads_slowly_is_waited_for(tokenizer):
    """What is written and not read is bounded."""
    response = await whole_answer(large_answer(tokenizer, 2, 300), CHAT, ENVELOPE)
    reads, sent = asyncio.Semaphore(2), []

    async def send(message: Message) -> None:
        await reads.acquire()
        sent.append(message)

    sending = asyncio.create_task(response({"type": "http"}, Mock(), send))
    with counted_turns() as turns:
        while len(turns) < 20:
            await asyncio.sleep(0)
    assert len(sent) == 2
    assert sent[-1]["more_body"]
    for _ in range(100):
        reads.release()
    await sending
    assert not sent[-1]["more_body"]


async def test_many_short_pieces_are_several_parts():
    """Each takes its time."""
    pieces = [b"a"] * (2 * MAX_PIECES + 1)
    with counted_turns() as turns:
        parts = await in_parts(pieces)
        assert len(turns) == 2
    assert [len(part) for part in parts] == [MAX_PIECES, MAX_PIECES, 1]


async def test_a_usual_answer_is_one_part(tokenizer):
    response = await whole_answer(large_answer(tokenizer, 1, 16), CHAT, ENVELOPE)
    with counted_turns() as turns:
        sent = await sent_by(response)
        assert not turns
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
