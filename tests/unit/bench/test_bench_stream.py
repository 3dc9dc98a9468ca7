"""The load tool's client against servers that say it in their several ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tandem.bench.answer import Answer
from tandem.bench.closed_loop import run_workload
from tandem.bench.completion_stream import CHAT, COMPLETIONS, Endpoint, complete
from tandem.bench.summary import Summary
from tandem.bench.text_prompts import PlainWords, Words
from tandem.bench.workload import LongPrompts, Prompt, Workload
from tandem.core.errors import ConfigError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = "[DONE]"


def event(data: Any, end: str = "\n\n") -> bytes:
    return f"data: {data if data == DONE else json.dumps(data)}{end}".encode()


def usage(completion: int, prompt: int = 3) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def text(content: str = "x", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": content}], **more}


def end(completion: int = 3, prompt: int = 3) -> list[bytes]:
    """Of a stream that says at its end how many tokens it had."""
    return [event({"choices": [], "usage": usage(completion, prompt)}), event(DONE)]


@asynccontextmanager
async def serving(parts: Sequence[bytes], head: bytes = OK) -> AsyncIterator[Endpoint]:
    """A server whose every answer is `parts`, each a chunk of HTTP that is sent by itself."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        length = int(request.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(head)
        for part in parts:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        if not parts or parts[-1].endswith(b"[DONE]\n\n"):
            writer.write(b"0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Endpoint("127.0.0.1", port)
    finally:
        server.close()


async def ask(*parts: bytes, num_output: int = 3, head: bytes = OK) -> Answer:
    answer = Answer(Prompt((7, 8, 9), num_output), 0.0)
    async with serving(parts, head) as endpoint:
        await complete(endpoint, answer)
    return answer


def counts(answer: Answer) -> list[int]:
    return [count for _, count in answer.arrivals]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([text(usage=usage(1)), text("", usage=usage(1)), text("xy", usage=usage(3))], [1, 3]),
        ([text(timings={"predicted_n": number}) for number in (1, 3)], [1, 3]),
        # A server that says nothing sends a token a chunk.
        ([text()] * 3, [1, 2, 3]),
    ],
    ids=["usage", "timings", "nothing"],
)
async def test_each_chunk_says_how_many_tokens_it_has(
    chunks: list[dict[str, Any]], expected: list[int]
) -> None:
    answer = await ask(*map(event, chunks), *end())
    assert (answer.problem(), counts(answer)) == ("", expected)


async def test_unless_its_usage_says_otherwise() -> None:
    answer = await ask(event(text()), event(text("xy")), *end())
    assert "3 tokens in 2 chunks" in answer.problem()


async def test_events_may_be_torn_anywhere() -> None:
    whole = b"".join(event(text(usage=usage(n)), "\r\n\r\n") for n in (1, 2, 3)) + event(DONE)
    parts = [whole[at : at + 7] for at in range(0, len(whole) - 8, 7)]
    answer = await ask(*parts, whole[len(parts) * 7 :])
    assert answer.problem() == ""
    assert answer.num_tokens == 3


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([event(text(usage=usage(2))), event(DONE)], "2 tokens came, 3 were asked for"),
        ([event(text(usage=usage(1, prompt=4)))], "the prompt became 4 tokens"),
        ([event({"error": {"message": "worker lost"}})], "error: worker lost"),
        ([event(text(usage=usage(3)))], "ended early"),
    ],
)
async def test_what_goes_wrong_is_told(parts: list[bytes], problem: str) -> None:
    assert problem in (await ask(*parts)).problem()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ([b"no such", b" model"], "status 400: no such model"),
        (
            [b'{"error": {"message": "slow', b' down", "code": "rate_limit"}}'],
            "status 400 rate_limit: slow down",
        ),
        ([b'{"detail": [{"msg": "field required"}]}'], 'status 400: [{"msg":"field required"}]'),
        ([b'{"error": "full"}'], "status 400: full"),
        ([b'{"error": {"type": "busy", "code": null}}'], "status 400 busy"),
    ],
)
async def test_a_refusal_is_told(body: list[bytes], problem: str) -> None:
    head = b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = Answer(Prompt((7, 8, 9), 3), 0.0)
    async with serving([*body, b""], head) as endpoint:
        await complete(endpoint, answer)
    assert answer.problem() == problem


async def test_a_refusal_that_ends_with_its_connection_is_told() -> None:
    head = b"HTTP/1.0 502 Bad Gateway\r\nConnection: close\r\n\r\n"
    assert (await ask(b"oops", head=head)).problem().startswith("status 502: ")


async def test_a_stream_must_say_that_it_is_done() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert "without [DONE]" in (await ask(head=head)).problem()


async def test_nobody_there_is_told() -> None:
    async with serving([]) as endpoint:
        pass
    answer = Answer(Prompt((7,), 1), 0.0)
    await complete(endpoint, answer)
    assert "cannot connect" in answer.problem()


async def test_a_workload_asks_as_often_as_it_says() -> None:
    workload = Workload("tiny", 3, 2, concurrency=2, num_requests=6)
    async with serving([event(text(usage=usage(2))), event(DONE)]) as endpoint:
        run = await run_workload(lambda answer: complete(endpoint, answer), workload, 1)
    made = Summary.of(run, workload, "arm", 1)
    assert (made.num_requests, made.num_tokens, made.num_problems) == (6, 12, 0)


async def test_long_prompts_arrive_at_their_pace_and_no_more_after_the_end() -> None:
    long = LongPrompts(3, 2, interval_s=0.1)
    workload = Workload("tiny", 3, 2, concurrency=2, seconds=0.38, long=long)
    async with serving([event(text(usage=usage(2))), event(DONE)]) as endpoint:
        run = await run_workload(lambda answer: complete(endpoint, answer), workload, 1)
    assert len(run.long_answers) == 4
    assert not any(each.problem() for each in (*run.answers, *run.long_answers))
    assert run.end_s - run.start_s == pytest.approx(0.38)


async def test_a_run_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.bench.closed_loop.LIMIT_S", 0.05)
    workload = Workload("tiny", 3, 2, concurrency=2, num_requests=6)

    async def hang(answer: Answer) -> None:
        await asyncio.Event().wait()

    made = Summary.of(await run_workload(hang, workload, 1), workload, "arm", 1)
    assert made.num_problems == 2
    assert "unfinished" in made.problems[0]


def word_tokenizer(folder: Path) -> Path:
    vocabulary = {"Ġred": 0, "Ġblue": 1, "Ġgreen": 2, "Ġ1": 3, "x": 4}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="x"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_text_has_as_many_tokens_as_the_prompt(tmp_path: Path) -> None:
    prompt = Words(word_tokenizer(tmp_path)).worded(Prompt((1000, 1001, 1002, 1004), 1))
    assert len(prompt.text.split()) == len(prompt.token_ids) == 4
    assert set(prompt.text.split()) <= {"red", "blue", "green"}


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        Words(tmp_path / "nothing.json")


def test_plain_words_are_as_many_and_begin_in_their_own_ways() -> None:
    made = [PlainWords().worded(Prompt((a, b, 2, 3), 1)).text for a in (1, 2) for b in (3, 4)]
    assert {len(each.split()) for each in made} == {4}
    assert len(set(made)) == 4


async def lenient(*parts: bytes, chat: bool = False, num_output: int = 3) -> Answer:
    answer = Answer(Prompt((7, 8, 9), num_output, "red" if chat else ""), 0.0)
    async with serving(parts) as endpoint:
        path = CHAT if chat else COMPLETIONS
        await complete(replace(endpoint, is_exact=False, path=path), answer)
    return answer


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [([text(), text("xy")], [1, 3]), ([text()] * 4, [1, 2, 3])],
    ids=["fewer chunks", "more chunks"],
)
async def test_a_total_at_the_end_settles_what_chunks_did_not_say(
    chunks: list[dict[str, Any]], expected: list[int]
) -> None:
    answer = await lenient(*map(event, chunks), *end())
    assert (answer.problem(), counts(answer)) == ("", expected)


async def test_a_chat_is_timed_by_its_deltas() -> None:
    deltas = [{"role": "assistant", "content": ""}, {"content": "x"}, {"content": "y"}]
    answer = await lenient(
        *(event({"choices": [{"delta": each}]}) for each in deltas),
        *end(2, prompt=40),
        chat=True,
        num_output=2,
    )
    assert (answer.problem(), counts(answer)) == ("", [1, 2])
    assert answer.told["prompt_tokens"] == 40


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"content": None, "reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    ],
)
async def test_a_delta_of_whatever_kind_is_a_token(delta: dict[str, Any]) -> None:
    deltas = [{"role": "assistant", "content": "", "tool_calls": []}, delta, {"content": "y"}]
    answer = await lenient(
        *(event({"choices": [{"delta": each}]}) for each in deltas),
        *end(2),
        chat=True,
        num_output=2,
    )
    assert (answer.problem(), counts(answer)) == ("", [1, 2])


async def test_what_the_server_does_not_count_is_told() -> None:
    pieces = [event(text("two words")) for _ in range(3)]
    answer = await lenient(*pieces, event(DONE))
    assert (answer.problem(), answer.num_tokens, answer.is_counted) == ("", 3, False)
    answer = await lenient(*pieces[1:], event(DONE))
    assert "2 pieces, whose tokens the server does not count, came" in answer.problem()
    answer = await lenient(*pieces, *end())
    assert answer.is_counted


async def test_a_total_with_the_last_chunk_leaves_it_its_time() -> None:
    last = {"choices": [{"text": "xy", "finish_reason": "length"}], "usage": usage(4)}
    answer = await lenient(event(text()), event(text()), event(last), event(DONE), num_output=4)
    assert (answer.problem(), counts(answer)) == ("", [1, 2, 4])


async def test_an_error_that_is_null_is_none() -> None:
    answer = await ask(*(event(text(usage=usage(n), error=None)) for n in (1, 2, 3)), event(DONE))
    assert answer.problem() == ""


async def test_what_tandem_tells_is_kept() -> None:
    told = {"mode": "disaggregated", "kv_bytes": 512}
    cached = {**usage(3), "prompt_tokens_details": {"cached_tokens": 2}}
    answer = await lenient(
        event(text(usage=usage(3))),
        event(text("", usage=cached, tandem=told)),
        event(DONE),
    )
    assert answer.told == {**told, "prompt_tokens": 3, "cached_tokens": 2}


@pytest.mark.parametrize("broken", [b"data: {not json\n\n", event({"usage": {"prompt_tokens": 3}})])
async def test_what_no_server_says_is_a_problem(broken: bytes) -> None:
    assert "not what a server says" in (await ask(broken)).problem()


async def test_a_refusal_without_words_is_told() -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    assert (await ask(head=head)).problem() == "status 503"


def test_openais_fields_alone_are_sent_where_answers_may_end_early() -> None:
    endpoint = Endpoint("host", 80, ignore_eos=False)
    body = json.loads(endpoint.request(Prompt((7,), 5)).split(b"\r\n\r\n")[1])
    assert body["stream_options"] == {"include_usage": True}
    assert set(body) == {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options"}
