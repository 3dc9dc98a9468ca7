"""Several answers to one request, log-probabilities, and what else shapes an answer."""

from __future__ import annotations

import asyncio
import math

import pytest
from http_client import CHAT, CHAT_PATH, TEXT, TEXT_PATH, assert_refused, events, stream, whole
from scripted_service import Pause, ended

from tandem.core.errors import ResourceExhausted, Unavailable


def texts_of(chunks: list[dict], num_choices: int) -> list[str]:
    texts = [""] * num_choices
    for chunk in chunks:
        for choice in chunk["choices"]:
            piece = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            texts[choice["index"]] += piece
    return texts


@pytest.fixture
def numbered(service, say):
    """Each choice says its own number."""
    service.script = lambda request: say(f"I am {request.choice_index}")
    return service


@pytest.mark.parametrize(("path", "prompt"), [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)])
async def test_n_answers(client, numbered, path, prompt):
    body = await whole(client, path, prompt | {"n": 3, "seed": 7})
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    texts = [c["text"] if "text" in c else c["message"]["content"] for c in body["choices"]]
    assert texts == ["I am 0", "I am 1", "I am 2"]
    assert body["usage"]["prompt_tokens"] == len(numbered.requests[0].prompt_token_ids)
    assert body["usage"]["completion_tokens"] == 18
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert len(body["tandem"]["choices"]) == 3
    assert [request.choice_index for request in numbered.requests] == [0, 1, 2]
    assert len({request.request_id for request in numbered.requests}) == 1
    assert {request.params.seed for request in numbered.requests} == {7}


@pytest.mark.parametrize(("path", "prompt"), [(CHAT_PATH, CHAT), (TEXT_PATH, TEXT)])
async def test_n_streamed_answers(client, numbered, path, prompt):
    *chunks, last = await stream(client, path, prompt | {"n": 3})
    assert texts_of(chunks, 3) == ["I am 0", "I am 1", "I am 2"]
    ends = [c for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(choice["index"] for choice in ends) == [0, 1, 2]
    assert last["usage"]["completion_tokens"] == 18


async def test_choices_that_end_at_different_times(client, service, say):
    scripts = [say("a"), [97, Pause.A_MOMENT, *say("bcd")], say("xyz stop and more")]
    service.script = lambda request: list(scripts[request.choice_index])
    body = await whole(client, TEXT_PATH, TEXT | {"n": 3, "stop": " stop"})
    assert [choice["text"] for choice in body["choices"]] == ["a", "abcd", "xyz"]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "length", "stop"]


@pytest.mark.parametrize("prompts", [["a", "b"], [[97], [98]]])
async def test_a_list_of_prompts(client, service, say, prompts):
    service.script = lambda request: say(f"{request.prompt_token_ids[0]}.{request.choice_index}")
    body = await whole(client, TEXT_PATH, {"prompt": prompts, "n": 2, "best_of": 2})
    assert [c["text"] for c in body["choices"]] == ["97.0", "97.1", "98.2", "98.3"]
    assert body["usage"]["prompt_tokens"] == 2
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_one_failure_ends_all(client, service):
    service.script = lambda request: (
        [72, Pause.FOREVER] if request.choice_index else [72, Pause.A_MOMENT, Unavailable("lost")]
    )
    response = await client.post(TEXT_PATH, json=TEXT | {"n": 4})
    assert response.status_code == 503
    assert all(each.cancelled.is_set() for each in service.streams[1:])
    *_, last = events(await client.post(TEXT_PATH, json=TEXT | {"n": 4, "stream": True}))
    assert last["error"]["message"] == "lost"
    assert all(each.cancelled.is_set() for each in service.streams[5:])


async def test_what_cannot_all_be_submitted_is_not_submitted(client, service, frontend):
    def script(request):
        if request.choice_index == 2:
            raise ResourceExhausted("full", retry_after_s=1.0)
        return [72, Pause.FOREVER]

    service.script = script
    response = await client.post(TEXT_PATH, json=TEXT | {"n": 3, "request_id": "a"})
    assert response.status_code == 429
    assert len(service.streams) == 2
    assert all(each.cancelled.is_set() for each in service.streams)
    service.script = lambda request: [72, 73]
    await asyncio.wait_for(frontend.idle(), 10)


async def test_too_many_answers(client, service):
    for n in (0, -1, 129, 10**9, 10**30):
        assert_refused(await client.post(TEXT_PATH, json=TEXT | {"n": n}), 400, "n")
    assert_refused(await client.post(TEXT_PATH, json={"prompt": ["a"] * 65, "n": 2}), 400, "n")
    assert_refused(await client.post(TEXT_PATH, json={"prompt": ["a"] * 129}), 400, "prompt")
    assert_refused(await client.post(TEXT_PATH, json=TEXT | {"best_of": 2}), 400, "best_of")
    assert not service.requests


async def test_chat_logprobs(client, service, say):
    service.script = lambda request: say("Hé")
    body = await whole(client, CHAT_PATH, CHAT | {"logprobs": True, "top_logprobs": 2})
    assert service.requests[0].params.logprobs == 2
    content = body["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "H",
        "logprob": -0.5,
        "bytes": [72],
        "top_logprobs": [
            {"token": "H", "logprob": -0.5, "bytes": [72]},
            {"token": "G", "logprob": -1.5, "bytes": [71]},
        ],
    }
    # Half a character each.
    assert [(each["token"], each["bytes"]) for each in content[1:]] == [
        ("\ufffd", [0xC3]),
        ("\ufffd", [0xA9]),
    ]
    body = await whole(client, CHAT_PATH, CHAT | {"logprobs": True})
    assert service.requests[1].params.logprobs == 0
    assert body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    body = await whole(client, CHAT_PATH, CHAT | {"logprobs": False})
    assert body["choices"][0]["logprobs"] is None


async def test_completion_logprobs(client, service, say):
    service.script = lambda request: say("Hé!")
    body = await whole(client, TEXT_PATH, TEXT | {"logprobs": 2})
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["H", "\ufffd", "\ufffd", "!"]
    assert logprobs["token_logprobs"] == [-0.5] * 4
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert logprobs["top_logprobs"][0] == {"H": -0.5, "G": -1.5}
    assert logprobs["top_logprobs"][3] == {"!": -0.5, " ": -1.5}


@pytest.mark.parametrize("stop", [None, "lo, w"])
async def test_streamed_logprobs_are_those_of_the_tokens_billed(client, stop):
    """Also of tokens whose text is held back, or never shown."""
    *chunks, last = await stream(client, CHAT_PATH, CHAT | {"logprobs": True, "stop": stop})
    scored = [
        each
        for chunk in chunks
        for choice in chunk["choices"]
        for each in (choice["logprobs"] or {"content": []})["content"]
    ]
    shown = "Hello, world"[: len(scored)]
    assert "".join(each["token"] for each in scored) == shown
    assert last["usage"]["completion_tokens"] == len(scored) == (8 if stop else 12)
    *chunks, last = await stream(client, TEXT_PATH, TEXT | {"logprobs": 0, "stop": stop})
    logprobs = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"]]
    offsets = [offset for each in logprobs if each for offset in each["text_offset"]]
    assert offsets == list(range(len(scored)))


async def test_a_logprob_of_no_likelihood_is_json(client, service, monkeypatch):
    monkeypatch.setattr("scripted_service.FIRST_LOGPROB", -math.inf)
    body = await whole(client, CHAT_PATH, CHAT | {"logprobs": True})
    assert body["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


async def test_echo(client, service):
    body = await whole(client, TEXT_PATH, {"prompt": ["Hi ", "Ho "], "echo": True})
    assert [c["text"] for c in body["choices"]] == ["Hi Hello, world", "Ho Hello, world"]
    assert body["usage"]["completion_tokens"] == 24
    *chunks, _ = await stream(client, TEXT_PATH, {"prompt": [72, 105], "echo": True})
    assert texts_of(chunks, 1) == ["HiHello, world"]


async def test_an_echo_alone(client, service):
    body = await whole(client, TEXT_PATH, TEXT | {"echo": True, "max_tokens": 0})
    first, *_ = await stream(client, TEXT_PATH, TEXT | {"echo": True, "max_tokens": 0})
    assert [each["choices"][0]["text"] for each in (body, first)] == ["Hi", "Hi"]
    assert body["tandem"]["mode"] == "none"
    assert not service.requests


SCORED = {"tokens": ["H", "i", "!"], "token_logprobs": [None, -0.5, -0.5]}


async def test_an_echo_says_how_likely_its_prompt_was(client, service, say):
    service.script = lambda request: say("!")
    fields = TEXT | {"echo": True, "logprobs": 1, "max_tokens": 1}
    body = await whole(client, TEXT_PATH, fields)
    (choice,) = body["choices"]
    assert choice["text"] == "Hi!"
    assert choice["logprobs"] == SCORED | {
        "top_logprobs": [None, {"i": -0.5}, {"!": -0.5}],
        "text_offset": [0, 1, 2],
    }
    assert body["usage"]["completion_tokens"] == 1
    (request,) = service.requests
    assert (request.params.logprobs, request.params.prompt_logprobs) == (1, 1)
    *chunks, last = await stream(client, TEXT_PATH, fields)
    assert texts_of(chunks, 1) == ["Hi!"]
    logprobs = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert [each["token_logprobs"] for each in logprobs] == [[None, -0.5], [-0.5]]
    assert last["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("prompts", [["Hi", "Ho"], [[72, 105], [72, 111]]])
async def test_each_answer_says_how_likely_its_prompt_was(client, service, say, prompts):
    service.script = lambda request: say("!")
    fields = {"prompt": prompts, "n": 2, "echo": True, "logprobs": 0}
    body = await whole(client, TEXT_PATH, fields)
    tokens = [choice["logprobs"]["tokens"] for choice in body["choices"]]
    assert tokens == [["H", "i", "!"]] * 2 + [["H", "o", "!"]] * 2
    assert body["choices"][3]["logprobs"]["top_logprobs"] == [None, {"o": -0.5}, {"!": -0.5}]
    # Which is computed once for each prompt.
    assert [each.params.prompt_logprobs for each in service.requests] == [0, None, 0, None]
    assert {each.params.logprobs for each in service.requests} == {0}
    *chunks, _ = await stream(client, TEXT_PATH, fields)
    streamed: list[list[str]] = [[], [], [], []]
    for choice in (each for chunk in chunks for each in chunk["choices"] if each["logprobs"]):
        streamed[choice["index"]] += choice["logprobs"]["tokens"]
    assert streamed == tokens


async def test_an_echo_alone_says_how_likely_it_was(client, service):
    service.script = lambda request: [ended()]
    fields = TEXT | {"echo": True, "logprobs": 1, "max_tokens": 0}
    body = await whole(client, TEXT_PATH, fields)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Hi", "length")
    assert choice["logprobs"]["tokens"] == ["H", "i"]
    assert body["usage"]["completion_tokens"] == 0
    assert service.requests[0].params.max_tokens == 0
    *chunks, last = await stream(client, TEXT_PATH, fields)
    assert texts_of(chunks, 1) == ["Hi"]
    assert last["usage"]["completion_tokens"] == 0
    service.requests.clear()
    body = await whole(client, TEXT_PATH, fields | {"n": 2})
    assert [each["logprobs"]["tokens"] for each in body["choices"]] == [["H", "i"]] * 2
    assert [each["mode"] for each in body["tandem"]["choices"]] == ["disaggregated", "none"]
    assert len(service.requests) == 1


async def test_without_an_echo_nothing_is_said_of_the_prompt(client, service):
    body = await whole(client, TEXT_PATH, TEXT | {"logprobs": 1})
    assert body["choices"][0]["logprobs"]["tokens"][0] == "H"
    assert service.requests[0].params.prompt_logprobs is None


async def test_where_a_prompts_tokens_are_in_its_text(client, service, say):
    """A character of two tokens, and a special token: as it is in a text, and left out of what
    tokens say. U+FFFD may be half a character until there is more, and counts once."""
    service.script = lambda request: say("!")
    for prompt, text, offsets in (
        ("\ufffdab", "\ufffdab!", [0, 0, 0, 0, 2, 3]),
        ("\ufffd<|endoftext|>i", "\ufffd<|endoftext|>i!", [0, 0, 0, 1, 14, 15]),
        ("é<|endoftext|>i", "é<|endoftext|>i!", [0, 0, 1, 14, 15]),
        ([0xC3, 0xA9, 256, 105], "éi!", [0, 0, 1, 1, 2]),
    ):
        fields = {"prompt": prompt, "echo": True, "logprobs": 0}
        (choice,) = (await whole(client, TEXT_PATH, fields))["choices"]
        assert (choice["text"], choice["logprobs"]["text_offset"]) == (text, offsets)


async def test_a_request_asks_for_so_many_logprobs_of_prompts(client, service, monkeypatch):
    """Of all its prompts and answers, those of the likeliest tokens counted in."""
    monkeypatch.setattr("gateway.limits.MAX_PROMPT_LOGPROBS", 24)
    fields = {"prompt": ["abc", "d"], "n": 2, "echo": True, "logprobs": 2}
    await whole(client, TEXT_PATH, fields)
    assert len(service.requests) == 4
    refused = await client.post(TEXT_PATH, json=fields | {"logprobs": 3})
    assert_refused(refused, 400, "logprobs")
    assert (await client.post(TEXT_PATH, json=fields | {"echo": False, "logprobs": 3})).is_success


@pytest.mark.parametrize("prompt", [["abc", "d"], [[97, 98, 99], [100]]])
async def test_a_request_asks_for_so_many_characters_of_prompts(
    client, service, monkeypatch, prompt
):
    """Of all its answers together."""
    monkeypatch.setattr("gateway.limits.MAX_ECHO_CHARS", 8)
    fields = {"prompt": prompt, "n": 2, "echo": True, "max_tokens": 0}
    await whole(client, TEXT_PATH, fields)
    assert_refused(await client.post(TEXT_PATH, json=fields | {"n": 3}), 400, "echo")
    fields |= {"echo": False, "max_tokens": 1, "n": 3}
    assert (await client.post(TEXT_PATH, json=fields)).is_success


async def test_a_stop_string_can_be_part_of_the_answer(client):
    fields = {"stop": ["lo, w"], "include_stop_str_in_output": True}
    body = await whole(client, TEXT_PATH, TEXT | fields)
    assert body["choices"][0]["text"] == "Hello, w"
    assert body["choices"][0]["finish_reason"] == "stop"


async def test_no_stop_string_counts_before_min_tokens(client, service):
    body = await whole(client, TEXT_PATH, TEXT | {"stop": "l", "min_tokens": 4})
    assert body["choices"][0]["text"] == "Hell" + "o, wor"
    assert service.requests[0].params.min_tokens == 4


async def test_special_tokens_are_shown_if_asked_for(client, service, say):
    service.script = lambda request: [257, *say("Hi")[:-1], 258, 256, *say("")]
    body = await whole(client, CHAT_PATH, CHAT)
    assert body["choices"][0]["message"]["content"] == "Hi"
    body = await whole(client, CHAT_PATH, CHAT | {"skip_special_tokens": False})
    # The one that ends the text is no part of it.
    assert body["choices"][0]["message"]["content"] == "<|im_start|>Hi<|im_end|>"


async def test_continuous_usage(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, CHAT_PATH, CHAT | {"stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [0, *range(1, 13), 12, 12]


@pytest.mark.parametrize(
    ("path", "body", "text_of"),
    [
        (TEXT_PATH, TEXT, lambda choice: choice["text"]),
        (CHAT_PATH, CHAT, lambda choice: choice["delta"].get("content", "")),
    ],
    ids=["completion", "chat"],
)
async def test_usage_grows_with_tokens_whose_text_is_held_back(
    client, service, say, path, body, text_of
):
    """Half a character, and what may begin a stop string."""
    service.script = lambda request: say("a\u00e9xy")
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(client, path, body | {"stream_options": options, "stop": "xz"})
    said = [
        (chunk["usage"]["completion_tokens"], text_of(choice))
        for chunk in chunks
        for choice in chunk["choices"]
    ]
    growing = [(1, "a"), (2, ""), (3, "\u00e9"), (4, ""), (5, "xy")]
    assert [each for each in said if each in growing] == growing
    # Who did not ask for it is told nothing where nothing is shown.
    plain = await stream(client, path, body | {"stop": "xz"})
    texts = [text_of(choice) for chunk in plain for choice in chunk["choices"]]
    assert len(texts) == len(said) - 2


async def test_a_client_of_many_answers_that_leaves_ends_them_all(frontend, service, client):
    service.script = lambda request: [72, Pause.FOREVER]
    call = asyncio.create_task(client.post(TEXT_PATH, json=TEXT | {"n": 8}))
    async with asyncio.timeout(10):
        await service.generated(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(service.streams) == 8
    assert all(each.cancelled.is_set() for each in service.streams)
    await asyncio.wait_for(frontend.idle(), 10)
