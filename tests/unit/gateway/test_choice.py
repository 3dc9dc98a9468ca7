from __future__ import annotations

import asyncio
from array import array
from itertools import pairwise
from unittest.mock import Mock

import orjson
import pytest
from http_client import counted_turns, sent_by
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import Answer
from gateway.choice import Choice, Delta, Echo, Finished
from gateway.generation_streams import GenerationStream
from gateway.http.formats.collected import CollectedChoice
from gateway.http.formats.completion import CompletionFormat
from gateway.http.formats.envelope import Envelope
from gateway.http.whole import whole_answer
from gateway.no_tokens import NoTokens
from gateway.text import PromptPlaces, TokenText
from gateway.tokens import MAX_TAKEN, Ended, Event, ScoredPrompt, ServedBy, Token, TokenStream
from gateway.tools.parser import ToolCallParser
from gateway.tools.syntax import tool_format
from tandem.core.errors import Unavailable
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.sequence import FinishReason

SERVED_BY = ServedBy("prefill-0", "decode-0")
ENDED = Ended(FinishReason.LENGTH, SERVED_BY)
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


class Letters:
    """A detokenizer whose token ids are characters."""

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


class Stoppable:
    """A stream that only waits to be stopped."""

    def __init__(self) -> None:
        self.stopped = False

    async def next(self) -> list[Token | Ended]:
        raise AssertionError("not read here")

    def stop(self) -> Ended:
        self.stopped = True
        return Ended(FinishReason.STOP, SERVED_BY)

    def cancel(self) -> None:
        pass


def tokens_of(text: str) -> list[Token]:
    return [Token(i, ord(each), TokenLogprobs.of(-0.5 * i)) for i, each in enumerate(text)]


def told_of(
    batches: list[list[Token | Ended]], stops: tuple[str, ...], one_call: bool
) -> tuple[str, list[int], object, object, bool, Finished]:
    """What a client learns when a stream's events come in these batches."""
    stream = Stoppable()
    parser = ToolCallParser(tool_format("", True, "hermes").syntax, frozenset({"f"}), 1)
    choice = Choice(0, stream, TokenText(Letters(), stops), parser if one_call else None)
    told: list[Delta | Finished] = []
    for batch in batches:
        if not choice.ended:
            told += choice.take(batch)
    collected = CollectedChoice()
    for event in told:
        collected.add(event)
    token_ids = [each for event in told if isinstance(event, Delta) for each in event.token_ids]
    calls = [(call.name, call.arguments) for call in collected.calls]
    assert isinstance(told[-1], Finished)
    scored = [each for event in told if isinstance(event, Delta) for each in event.scored]
    return collected.text, token_ids, scored, calls, stream.stopped, told[-1]


@given(
    text=st.text("ab", min_size=1, max_size=12) | st.just("a" + CALL + "b" + CALL),
    stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=2).map(tuple),
    one_call=st.booleans(),
    cuts=st.sets(st.integers(1, 150)),
)
def test_what_is_told_does_not_depend_on_what_comes_together(text, stops, one_call, cuts):
    events = [*tokens_of(text), ENDED]
    one_by_one = [[event] for event in events]
    edges = [0, *sorted(cut for cut in cuts if cut < len(events)), len(events)]
    together = [events[a:b] for a, b in pairwise(edges)]
    assert told_of(together, stops, one_call) == told_of(one_by_one, stops, one_call)


def test_tokens_that_come_together_are_one_delta():
    choice = Choice(3, Stoppable(), TokenText(Letters()))
    delta, finished = choice.take([*tokens_of("abc"), ENDED])
    assert isinstance(delta, Delta)
    assert (delta.choice_index, delta.token_ids, delta.text) == (3, (97, 98, 99), "abc")
    assert [each.text_offset for each in delta.scored] == [0, 1, 2]
    assert finished == Finished(3, FinishReason.LENGTH, 3, SERVED_BY)


def test_a_stream_gives_what_came_before_an_error_first():
    stream = GenerationStream(None, None)  # type: ignore[arg-type]
    stream.subscribe(lambda: None)
    tokens = tokens_of("ab")
    assert [stream.put(each) for each in (*tokens, Unavailable("lost"))] == [True, False, False]
    assert stream.take() == tokens
    with pytest.raises(Unavailable, match="lost"):
        stream.take()


def test_a_prompt_is_taken_before_the_tokens_and_no_more_of_it_at_a_time():
    stream = GenerationStream(Mock(), Mock())
    told: list[int] = []
    stream.subscribe(lambda: told.append(1))
    length = 2 * MAX_TAKEN + 1
    logprobs = LogprobColumns(array("f", range(length - 1)))
    (token,) = tokens_of("a")
    assert stream.put(ScoredPrompt(range(length), logprobs))
    assert not stream.put(token)
    assert not stream.put(ENDED)
    stream.tell()
    assert told == [1]
    taken = []
    while stream.has_more:
        taken.append(stream.take())
    assert [len(each) for each in taken] == [MAX_TAKEN, MAX_TAKEN, 1, 2]
    *prompt, last, ended = [event for events in taken for event in events]
    assert [each.position for each in prompt] == list(range(length))
    assert prompt[0].logprobs is None
    assert [each.logprobs.logprob for each in prompt[1:]] == list(range(length - 1))
    assert (last, ended) == (token, ENDED)


@pytest.mark.parametrize(("num_top", "num_turns"), [(0, 2), (7, 16)])
async def test_who_collects_a_long_prompt_lets_others_go_on(num_top: int, num_turns: int):
    """The more often, the more is told of each token."""
    stream = GenerationStream(Mock(), Mock())
    length = 2 * MAX_TAKEN
    num_others = (length - 1) * num_top
    top = array("I", bytes(4 * num_others)), array("f", bytes(4 * num_others))
    echo = Echo("", length, PromptPlaces("", Letters(), lambda token_id: ""))
    answer = Answer(
        request_id="",
        model="",
        num_prompt_tokens=length,
        choices=[Choice(0, stream, TokenText(Letters()), echo=echo)],
        on_close=lambda: None,
    )
    stream.put(ScoredPrompt(range(length), LogprobColumns(array("f", range(length - 1)), *top)))
    stream.put(ENDED)
    stream.tell()
    form, envelope = CompletionFormat(lambda token_id: b"?"), Envelope("", "", 0, "")
    with counted_turns() as turns:
        response = await whole_answer(answer, form, envelope)
    assert len(turns) == num_turns
    _, body = await sent_by(response)
    (choice,) = orjson.loads(body["body"])["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None, *range(length - 1)]


def scored_answer(length: int, *streams: TokenStream) -> Answer:
    """Of choices of one prompt, which the first of them scores."""
    choices: list[Choice] = []
    for index, stream in enumerate(streams):
        echo = Echo("", length, PromptPlaces("", Letters(), lambda token_id: ""))
        first = choices[0] if choices else None
        choices.append(Choice(index, stream, TokenText(Letters()), echo=echo, first=first))
    return Answer(
        request_id="", model="", num_prompt_tokens=length, choices=choices, on_close=lambda: None
    )


async def test_choices_tell_what_the_first_has_of_their_prompt_before_their_own_tokens():
    """They may have these sooner. Of all of them no more is told at a time than of one."""
    streams = [GenerationStream(Mock(), Mock()) for _ in range(3)]
    length = 2 * MAX_TAKEN + 1
    answer = scored_answer(length, *streams)

    def put(stream: GenerationStream, *events: Event) -> None:
        for event in events:
            stream.put(event)
        stream.tell()

    token = Token(length, ord("a"))
    put(streams[1], token, ENDED)
    put(streams[2], token)
    assert answer.take() == []
    assert not answer.has_more
    put(streams[0], ScoredPrompt(range(length), LogprobColumns(array("f", range(length - 1)))))
    told: list[list[Delta | Finished]] = [[] for _ in streams]

    def take_all() -> None:
        while answer.has_more:
            events = answer.take()
            assert sum(len(each.scored) for each in events if isinstance(each, Delta)) <= MAX_TAKEN
            for event in events:
                told[event.choice_index].append(event)

    take_all()
    put(streams[0], token, ENDED)
    put(streams[2], ENDED)
    take_all()
    assert not answer.is_open
    for *prompt, own, end in told:
        assert [len(each.scored) for each in prompt] == [MAX_TAKEN, MAX_TAKEN, 1]
        assert [each.num_prompt for each in prompt] == [MAX_TAKEN, MAX_TAKEN, 1]
        assert [each.scored for each in prompt] == [each.scored for each in told[0][:3]]
        assert (own.text, end.num_tokens) == ("a", 1)


async def test_an_answer_has_not_begun_before_its_prompt_is_scored():
    """What fails until then has a status of its own, whatever its other choices have."""
    streams = [GenerationStream(Mock(), Mock()) for _ in range(2)]
    answer = scored_answer(3, *streams, NoTokens())
    streams[1].put(Token(3, ord("a")))
    streams[1].tell()
    started = asyncio.create_task(answer.started())
    await asyncio.sleep(0)
    assert not started.done()
    streams[0].put(Unavailable("nobody scores it"))
    streams[0].tell()
    with pytest.raises(Unavailable, match="nobody scores it"):
        await started


async def test_an_answer_asks_a_stream_no_further_than_it_has_something():
    stream = GenerationStream(Mock(), Mock())
    asked: list[int] = []
    take = stream.take
    stream.take = lambda: (asked.append(1), take())[1]  # type: ignore[method-assign]
    answer = Answer(
        request_id="",
        model="",
        num_prompt_tokens=1,
        choices=[Choice(0, stream, TokenText(Letters()))],
        on_close=lambda: None,
    )
    told: list[Delta | Finished] = []
    answer.subscribe(lambda: told.extend(answer.take()))
    for token in tokens_of("abc"):
        assert stream.put(token)
        stream.tell()
    assert (len(told), len(asked)) == (3, 3)
    # Of a long backlog some are left, and an error is told of behind what came before it.
    for event in (*tokens_of("x" * (MAX_TAKEN + 1)), Unavailable("lost")):
        stream.put(event)
    stream.tell()
    assert answer.has_more and len(told) == 4
    told += answer.take()
    assert answer.has_more and len(told) == 5
    with pytest.raises(Unavailable):
        answer.take()
    assert not answer.has_more
    assert len(asked) == 6


async def test_the_more_is_told_of_each_token_the_fewer_are_taken_at_a_time():
    """Of one choice's backlog, and of many choices that have a token each."""
    num_top = 15
    most = MAX_TAKEN // (1 + num_top)
    logprobs = TokenLogprobs.of(-0.5, range(num_top), [-0.5] * num_top)
    streams = [GenerationStream(Mock(), Mock()) for _ in range(2 * most)]
    choices = [Choice(i, each, TokenText(Letters())) for i, each in enumerate(streams)]
    answer = Answer(
        request_id="", model="", num_prompt_tokens=1, choices=choices, on_close=lambda: None
    )
    for stream in streams:
        stream.put(Token(0, 97, logprobs))
        stream.tell()
    for position in range(1, 2 * most + 1):
        streams[0].put(Token(position, 97, logprobs))
    taken = []
    while answer.has_more:
        taken.append(sum(len(each.token_ids) for each in answer.take()))
    assert max(taken) < 2 * most
    assert sum(taken) == 4 * most


def test_a_reader_is_told_of_what_came_before_it():
    stream = GenerationStream(None, None)  # type: ignore[arg-type]
    told: list[Token | Ended] = []
    stream.tell()
    stream.put(tokens_of("a")[0])
    stream.subscribe(lambda: told.extend(stream.take()))
    assert stream.put(tokens_of("b")[0])
    stream.tell()
    assert [each.token_id for each in told if isinstance(each, Token)] == [97, 98]
