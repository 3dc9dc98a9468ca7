from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from fake_workers import fake_worker
from http_client import counted_calls
from llama_tokenizer import END, ID_OF, START, llama_tokenizer
from lone_gateway import Link, new_dispatcher, new_scheduler
from scripted_service import SERVED_BY, Pause, ScriptedService, ended

from gateway.access import Access
from gateway.answer import Answer
from gateway.choice import Delta, Finished
from gateway.frontend import (
    MAX_CHARS_READ_AT_ONCE,
    MAX_PENDING_CHARS,
    NUM_GRAMMAR_THREADS,
    Frontend,
)
from gateway.grammars import json_object, regex
from gateway.limits import MAX_CHOICES, MAX_PROMPT_CHARS, MAX_STOP_CHARS, MAX_STOPS
from gateway.offload import Offload
from gateway.prefix_index import PromptPrefix
from gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerationRequest,
    TextPrompt,
    TokenPrompt,
)
from gateway.tenants import ONE_TENANT, Tenant
from gateway.tools.tool import NO_PARAMETERS, Tool, ToolMode, ToolUse
from tandem.artifacts.sampling_defaults import SamplingDefaults
from tandem.artifacts.tokenizer import Tokenizer
from tandem.core.commands import Remove, Reserve
from tandem.core.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    NotFound,
    RateLimitExceeded,
    ResourceExhausted,
    TandemError,
    Unavailable,
)
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole

T = TypeVar("T")

TENANTS = {**ONE_TENANT, "one": Tenant(max_requests=1), "two": Tenant()}


def ask(text: str = "Hi", **fields: object) -> GenerationRequest:
    return GenerationRequest(prompts=(TextPrompt(text),), **fields)


async def each_of(answer: Answer) -> AsyncIterator[Delta | Finished]:
    async for events in answer:
        for event in events:
            yield event


async def read(answer: Answer) -> tuple[str, list[int], Finished]:
    text, token_ids, finished = "", [], []
    with answer:
        async for event in each_of(answer):
            if isinstance(event, Delta):
                assert not finished
                text += event.text
                token_ids += event.token_ids
            else:
                finished.append(event)
    (finish,) = finished
    return text, token_ids, finish


QWEN = SamplingDefaults(temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.05)


@pytest.fixture
def defaults() -> SamplingDefaults:
    return SamplingDefaults()


@pytest.fixture
def of_model(service, tokenizer, grammars, defaults):
    frontend = Frontend(service, tokenizer, grammars, defaults=defaults)
    yield frontend
    frontend.close()


@pytest.mark.parametrize("defaults", [QWEN])
async def test_what_a_request_does_not_say_is_as_the_model_has_it(service, of_model):
    await read(await of_model.generate(ask()))
    await read(await of_model.generate(ask(temperature=1.0, top_k=0, repetition_penalty=1.0)))
    first, second = (each.params for each in service.requests)
    assert (first.temperature, first.top_p, first.top_k) == (0.6, 0.95, 20)
    assert (first.min_p, first.repetition_penalty) == (0.0, 1.05)
    assert (second.temperature, second.top_p, second.top_k) == (1.0, 0.95, 0)
    assert second.repetition_penalty == 1.0


@pytest.mark.parametrize("defaults", [SamplingDefaults(max_tokens=20)])
async def test_more_tokens_at_least_than_the_model_gives_are_refused_as_that(of_model):
    with pytest.raises(InvalidRequest, match="min_tokens must be at most 20, the max_new_tokens"):
        await of_model.generate(ask(max_tokens=100, min_tokens=30))


@pytest.mark.parametrize("defaults", [SamplingDefaults(max_tokens=20)])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 20),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 1000}, 20),
        ({"default_max_tokens": 16}, 16),
        ({"default_max_tokens": 30}, 20),
        ({"max_tokens": 0, "echo": True}, 1),
    ],
)
async def test_no_answer_is_longer_than_the_models_default(service, of_model, fields, expected):
    await read(await of_model.generate(ask(**fields)))
    assert [each.params.max_tokens for each in service.requests] in ([expected], [])


async def test_a_text_becomes_tokens_and_tokens_a_text(frontend, service, tokenizer):
    answer = await frontend.generate(ask("Hi"))
    assert answer.num_prompt_tokens == 2
    text, token_ids, finished = await read(answer)
    assert text == "Hello, world"
    assert token_ids == tokenizer.encode(text)
    assert finished == Finished(0, FinishReason.LENGTH, 12, SERVED_BY)
    assert list(service.requests[0].prompt_token_ids) == tokenizer.encode("Hi")
    assert not service.streams[0].cancelled.is_set()


@pytest.mark.parametrize("prompt", [TextPrompt("Hi"), ChatPrompt((ChatMessage("user", "Hi"),))])
async def test_what_a_tokenizer_knows_and_the_model_does_not_is_refused(frontend, service, prompt):
    """A worker would fail the whole step, and all that are in it."""
    service.model = replace(service.model, vocab_size=10)
    with pytest.raises(InvalidRequest, match="token ids are in"):
        await frontend.generate(GenerationRequest(prompts=(prompt,)))
    assert not service.requests


async def test_defaults_are_openais(frontend, service):
    await read(await frontend.generate(ask("Hi")))
    await read(await frontend.generate(ask("Hi", default_max_tokens=16)))
    first, second = (request.params for request in service.requests)
    assert (first.temperature, first.top_p, first.top_k) == (1.0, 1.0, 0)
    assert first.max_tokens == 2048 - 2
    assert second.max_tokens == 16
    assert first.seed != second.seed
    assert service.requests[0].request_id != service.requests[1].request_id


@pytest.mark.parametrize("logprobs", [None, 0])
@pytest.mark.parametrize("prompt", [TextPrompt("x" * 2048), TokenPrompt((120,) * 2048)])
async def test_a_prompt_alone_may_be_as_long_as_the_model_takes(
    frontend, service, prompt, logprobs
):
    service.script = lambda request: [ended()]
    request = GenerationRequest(prompts=(prompt,), max_tokens=0, echo=True, logprobs=logprobs)
    text, _, finished = await read(await frontend.generate(request))
    assert (text, finished.num_tokens) == ("x" * 2048, 0)
    assert [each.params.max_tokens for each in service.requests] == (
        [] if logprobs is None else [0]
    )


async def test_a_default_never_makes_a_request_too_long(frontend, service):
    await read(await frontend.generate(ask("x" * 2040, default_max_tokens=16)))
    assert service.requests[0].params.max_tokens == 8


@pytest.fixture
def quota(service, tokenizer, grammars):
    """The gateway of a tenant that may have 100 tokens in flight."""
    tenants = {**ONE_TENANT, "short": Tenant(max_tokens_in_flight=100)}
    frontend = Frontend(service, tokenizer, grammars, access=Access(tenants))
    yield frontend
    frontend.close()


@pytest.mark.parametrize(
    ("texts", "fields", "expected"),
    [
        (["Hi"], {}, [98]),
        (["Hi"], {"num_choices": 3}, [31] * 3),
        (["Hi", "x" * 48], {}, [25, 25]),
        (["Hi"], {"default_max_tokens": 16}, [16]),
        (["x" * 90], {"default_max_tokens": 16}, [10]),
        # What is refused as too much: nothing is left, or what was asked for is more.
        (["x" * 100], {}, [1]),
        (["Hi"], {"min_tokens": 99}, [99]),
        (["Hi"], {"max_tokens": 99}, [99]),
        # The others have no such limit.
        (["Hi"], {"tenant": "default"}, [2046]),
    ],
)
async def test_a_default_is_within_its_tenants_quota(quota, service, texts, fields, expected):
    prompts = tuple(map(TextPrompt, texts))
    request = GenerationRequest(prompts=prompts, **{"tenant": "short", **fields})
    with await quota.generate(request):
        assert [each.params.max_tokens for each in service.requests] == expected


async def test_what_all_answers_have_in_common_is_worked_out_once(frontend):
    stops = tuple(f"{num:<{MAX_STOP_CHARS}}" for num in range(MAX_STOPS))
    biases = tuple((token_id, 1.0) for token_id in range(260))
    request = GenerationRequest(
        prompts=(TextPrompt("Hi"),) * MAX_CHOICES, stop=stops, logit_bias=biases, max_tokens=1
    )
    with counted_calls() as num_calls:
        answer = await frontend.generate(request)
    assert num_calls() < 200_000
    answer.cancel()


async def test_a_prompt_is_looked_through_once_for_all_its_answers(frontend):
    """For whether it says anything that they go on from: one of special tokens alone does not."""
    prompt = TokenPrompt((frontend.tokenizer.special_id("<|im_start|>"),) * 2000)
    request = GenerationRequest(prompts=(prompt,), num_choices=MAX_CHOICES, max_tokens=1)
    with counted_calls() as num_calls:
        answer = await frontend.generate(request)
    assert num_calls() < 100_000
    answer.cancel()


@pytest.fixture
def links():
    return {name: Link() for name in ("p", "d")}


@pytest.fixture
async def dispatcher():
    return new_dispatcher()


@pytest.fixture
async def dispatched(dispatcher, links, tokenizer, grammars):
    """A gateway with a worker of each role, which say nothing."""
    dispatcher._links.update(links)
    for name, role in (("p", WorkerRole.PREFILL), ("d", WorkerRole.DECODE)):
        dispatcher.joined(fake_worker(name, role), name)
    frontend = Frontend(dispatcher, tokenizer, grammars)
    yield frontend
    frontend.close()


def asked(link: Link) -> list[int]:
    """The choices for which a decode worker was asked for blocks."""
    return [each.key.choice_index for each in link.sent if isinstance(each, Reserve)]


async def test_all_answers_to_a_request_are_placed_together_and_let_go_together(dispatched, links):
    """A worker has room for eight. Those that have none are not given what the others leave."""
    request = ask(num_choices=MAX_CHOICES, max_tokens=1000)
    with counted_calls() as num_calls:
        answer = await dispatched.generate(request)
    assert num_calls() < 45_000
    placed = asked(links["d"])
    assert 0 < len(placed) < MAX_CHOICES
    with counted_calls() as num_calls:
        answer.cancel()
    assert num_calls() < 45_000
    assert asked(links["d"]) == placed
    assert sum(isinstance(each, Remove) for each in links["d"].sent) == len(placed)


@pytest.fixture
def may_read(monkeypatch):
    """When texts may be tokenised, for which they wait."""
    may_read, encode = threading.Event(), Tokenizer.encode

    def encode_then(self, *args, **kwargs):
        assert may_read.wait(10)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(Tokenizer, "encode", encode_then)
    return may_read


async def begun(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """It is as far as it comes in a turn of the event loop."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


LONG = "x" * (MAX_CHARS_READ_AT_ONCE + 1)


async def test_what_is_being_read_when_the_gateway_drains_is_served(
    dispatched, dispatcher, may_read
):
    reading = await begun(dispatched.generate(ask(LONG, max_tokens=5)))
    tokenizing = await begun(dispatched.tokenize(TextPrompt(LONG), len))
    dispatcher.drain()
    idle = await begun(dispatched.idle())
    with pytest.raises(Unavailable, match="stopping"):
        await dispatched.generate(ask())
    assert not idle.done()
    may_read.set()
    answer = await reading
    assert await tokenizing == len(LONG)
    assert not idle.done()
    answer.cancel()
    await asyncio.wait_for(idle, 10)


async def test_who_only_wants_tokens_does_not_keep_a_gateway_from_its_end(dispatched, dispatcher):
    """As many who ask one after the other would, each before the last one has its answer."""
    dispatcher.drain()
    with pytest.raises(Unavailable, match="stopping"):
        await dispatched.tokenize(TextPrompt("a"), len)
    with pytest.raises(Unavailable, match="stopping"):
        await dispatched.detokenize([5], len)
    await asyncio.wait_for(dispatched.idle(), 10)


async def test_what_is_being_read_when_all_ends_is_refused(dispatched, dispatcher, may_read):
    reading = await begun(dispatched.generate(ask(LONG, max_tokens=5)))
    dispatcher.drain()
    dispatcher.end_all()
    may_read.set()
    with pytest.raises(Unavailable, match="stopping"):
        await reading
    await asyncio.wait_for(dispatched.idle(), 10)


async def test_a_chat_goes_through_the_template(frontend, service, tokenizer):
    prompt = ChatPrompt((ChatMessage("user", "Hi"),))
    await read(await frontend.generate(GenerationRequest(prompts=(prompt,))))
    rendered = tokenizer.decode(service.requests[0].prompt_token_ids, skip_special_tokens=False)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def llama(service, grammars):
    """The gateway of a model whose tokenizer is SentencePiece's; it answers " ab a"."""
    tokenizer = llama_tokenizer()
    service.model = replace(service.model, vocab_size=tokenizer.vocab_size)
    service.script = lambda request: [ID_OF["▁ab"], ID_OF["▁a"], ended()]
    frontend = Frontend(service, tokenizer, grammars)
    yield frontend
    frontend.close()


@pytest.mark.parametrize(
    ("prompt", "fields", "expected"),
    [
        (TextPrompt("ab"), {}, " ab a"),
        (TextPrompt("ab"), {"echo": True}, "ab ab a"),
        (TextPrompt("ab"), {"stop": (" ab",)}, ""),
        (TextPrompt("ab é"), {}, " ab a"),
        (TokenPrompt((START, ID_OF["▁a"], END)), {}, " ab a"),
        (TokenPrompt((START,)), {}, "ab a"),
        (TokenPrompt((START,)), {"skip_special_tokens": False}, " ab a"),
    ],
)
async def test_an_answer_goes_on_from_its_prompt(llama, prompt, fields, expected):
    text, _, _ = await read(await llama.generate(GenerationRequest(prompts=(prompt,), **fields)))
    assert text == expected


async def test_each_choice_goes_on_from_its_prompt(llama):
    prompts = (TokenPrompt((START,)), TextPrompt("ab"))
    texts = ["", "", "", ""]
    offsets: list[list[int]] = [[], [], [], []]
    request = GenerationRequest(prompts=prompts, num_choices=2, logprobs=0)
    with await llama.generate(request) as answer:
        async for event in each_of(answer):
            if isinstance(event, Delta):
                texts[event.choice_index] += event.text
                offsets[event.choice_index] += [each.text_offset for each in event.scored]
    assert texts == ["ab a", "ab a", " ab a", " ab a"]
    assert offsets == [[0, 2], [0, 2], [0, 3], [0, 3]]


async def test_a_stop_string_cuts_and_ends(frontend, service):
    text, token_ids, finished = await read(await frontend.generate(ask(stop=("lo, w",))))
    assert text == "Hel"
    assert finished.finish_reason is FinishReason.STOP
    # "Hello, w": up to the token that completed the stop string, and no further.
    assert finished.num_tokens == len(token_ids) == 8
    assert service.streams[0].cancelled.is_set()
    assert service.streams[0].num_tokens == 8


async def test_a_partial_match_at_the_end_is_shown(frontend):
    text, _, finished = await read(await frontend.generate(ask(stop=("world!",))))
    assert text == "Hello, world"
    assert finished.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("request_", "kind", "param"),
    [
        (ask("x" * 2048), ContextLengthExceeded, "prompt"),
        (ask("x" * 2048, echo=True, max_tokens=1), ContextLengthExceeded, "prompt"),
        (ask("x" * 2049, echo=True, max_tokens=0), ContextLengthExceeded, "prompt"),
        (
            GenerationRequest(prompts=(TokenPrompt((1,) * 2048),)),
            ContextLengthExceeded,
            "prompt",
        ),
        (ask(max_tokens=2047), ContextLengthExceeded, "max_tokens"),
        # What comes by HTTP or gRPC is counted before.
        (ask(stop=("x",) * 33), InvalidRequest, "stop"),
        (ask(stop_token_ids=(1,) * 65), InvalidRequest, "stop_token_ids"),
        (
            GenerationRequest(prompts=(ChatPrompt((ChatMessage("user", "x"),) * 2049),)),
            InvalidRequest,
            "messages",
        ),
    ],
)
async def test_what_is_too_much_is_refused_by_name(frontend, service, request_, kind, param):
    with pytest.raises(InvalidRequest) as caught:
        await frontend.generate(request_)
    assert (type(caught.value), caught.value.param) == (kind, param)
    assert not service.requests


async def test_a_wrong_model_is_not_found(frontend):
    with pytest.raises(NotFound) as caught:
        await frontend.generate(ask(model="gpt"))
    assert caught.value.param == "model"


@pytest.mark.parametrize("model", ["", "default", "mock"])
async def test_names_of_the_model(frontend, model):
    await read(await frontend.generate(ask(model=model)))


async def test_without_a_model_it_is_unavailable(frontend, service):
    service.model = None
    with pytest.raises(Unavailable) as caught:
        await frontend.generate(ask())
    assert caught.value.retry_after_s


async def test_who_has_as_much_being_read_as_it_may_is_told_and_counted():
    dispatcher = new_dispatcher(new_scheduler(tenants=TENANTS))
    with dispatcher.reading("one", 1):
        with pytest.raises(RateLimitExceeded, match="1 requests in flight, has 1"):
            dispatcher.reading("one", 1)
        with dispatcher.reading("two", 5):
            pass
    assert dispatcher.metrics.refused == {"RATE_LIMIT_EXCEEDED": 1}
    with dispatcher.reading("one", 1):
        pass


async def test_what_is_being_read_counts_until_it_is(frontend, service, monkeypatch):
    """Whether or not anything is generated; and never beside what is submitted."""
    counts: list[int] = []
    encode = Tokenizer.encode

    def note() -> None:
        counts.append(service.being_read["default"])

    def encode_noted(self, *args, **kwargs):
        note()
        return encode(self, *args, **kwargs)

    def script(request):
        note()
        return [ended()]

    monkeypatch.setattr(Tokenizer, "encode", encode_noted)
    service.script = script
    with await frontend.generate(ask(num_choices=2)):
        assert counts == [2, 0, 0]
    with pytest.raises(ContextLengthExceeded):
        await frontend.generate(ask("x" * 3000))
    await frontend.tokenize(TextPrompt("Hi"), tuple)
    await frontend.detokenize([72], lambda text: note())
    assert counts[3:] == [1, 1, 1]
    assert service.being_read.total() == 0


async def test_a_short_prompt_is_read_where_it_is(frontend, service, monkeypatch):
    """No thread is woken for it."""
    monkeypatch.delattr(Offload, "run")
    short = "x" * MAX_CHARS_READ_AT_ONCE
    with await frontend.generate(ask(short)):
        assert len(service.requests[0].prompt_token_ids) >= len(short)
    with pytest.raises(AttributeError):
        await frontend.generate(ask(short + "x"))


async def test_all_work_on_threads_is_its_tenants(service, tokenizer, grammars, monkeypatch):
    frontend = Frontend(service, tokenizer, grammars, access=Access(TENANTS))
    run, seen = Offload.run, []

    async def run_noted(self, *args, tenant):
        seen.append(tenant)
        return await run(self, *args, tenant=tenant)

    monkeypatch.setattr(Offload, "run", run_noted)
    # Long enough to be hashed on a thread.
    prompts = tuple(TextPrompt("x" * 1000) for _ in range(5))
    request = GenerationRequest(prompts=prompts, grammar=json_object(), tenant="two")
    with await frontend.generate(request):
        pass
    await frontend.tokenize(TextPrompt("Hi"), tuple, tenant="two")
    await frontend.detokenize([72], str, tenant="two")
    assert seen == ["two"] * 5
    frontend.close()


async def test_a_grammar_that_is_known_waits_for_none_that_is_new(frontend, grammars, monkeypatch):
    tools = ToolUse((Tool("f", "", NO_PARAMETERS),), ToolMode.REQUIRED)
    known = [ask(grammar=json_object()), ask(tools=tools)]
    for each in known:
        await read(await frontend.generate(each))
    grammars.known.update(grammars.checked)
    may_go_on = threading.Event()
    monkeypatch.setattr(grammars, "check", lambda grammar: may_go_on.wait(60))
    flood = [
        asyncio.create_task(frontend.generate(ask(grammar=regex("a" * num, "guided_regex"))))
        for num in range(1, NUM_GRAMMAR_THREADS + 1)
    ]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(30):
            for each in known:
                await read(await frontend.generate(each))
    finally:
        may_go_on.set()
    for answer in await asyncio.gather(*flood):
        answer.cancel()


async def test_a_tenant_that_has_much_read_keeps_nobody_from_being_read(
    service, tokenizer, grammars, monkeypatch
):
    """Each of its prompts is too long, which is known when it was read: it never has anything in
    flight. When a thread is through with the first, the other tenant's is next."""
    frontend = Frontend(service, tokenizer, grammars, access=Access(TENANTS))
    may_go_on, encode = threading.Semaphore(0), Tokenizer.encode

    def slow(self, text, **kwargs):
        if len(text) < MAX_PROMPT_CHARS:
            return encode(self, text, **kwargs)
        may_go_on.acquire()
        return [72] * 10_000

    monkeypatch.setattr(Tokenizer, "encode", slow)
    long = ask("x" * MAX_PROMPT_CHARS, tenant="two")
    num_long = MAX_PENDING_CHARS // MAX_PROMPT_CHARS
    flood = [asyncio.create_task(frontend.generate(long)) for _ in range(num_long)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="being read"):
        await frontend.generate(long)
    other = asyncio.create_task(frontend.generate(ask("Hi", tenant="one")))
    await asyncio.sleep(0)
    may_go_on.release()
    try:
        async with asyncio.timeout(30):
            await read(await other)
        assert sum(each.done() for each in flood) <= 1
    finally:
        may_go_on.release(num_long)
    ends = await asyncio.gather(*flood, return_exceptions=True)
    assert {type(each) for each in ends} == {ContextLengthExceeded}
    frontend.close()


async def test_two_requests_cannot_share_an_id(frontend, service):
    with await frontend.generate(ask(request_id="a")):
        with pytest.raises(InvalidRequest) as caught:
            await frontend.generate(ask(request_id="a"))
        assert caught.value.param == "request_id"
    await read(await frontend.generate(ask(request_id="a")))
    await read(await frontend.generate(ask(request_id="a")))


async def test_tenants_know_nothing_of_each_others_ids(service, tokenizer, grammars):
    frontend = Frontend(service, tokenizer, grammars, access=Access(TENANTS))
    with (
        await frontend.generate(ask(request_id="a", tenant="one")),
        await frontend.generate(ask(request_id="a", tenant="two")),
    ):
        assert [each.tenant for each in service.requests] == ["one", "two"]
    await asyncio.wait_for(frontend.idle(), 10)
    frontend.close()


async def test_a_refused_request_leaves_its_id_free(frontend, service):
    service.refusal = ResourceExhausted("the queue is full", retry_after_s=2.0)
    with pytest.raises(ResourceExhausted):
        await frontend.generate(ask(request_id="a"))
    service.refusal = None
    await read(await frontend.generate(ask(request_id="a")))


async def test_a_failure_is_raised_once_and_ends_it(frontend, service):
    service.script = lambda request: [72, TandemError("boom")]
    with await frontend.generate(ask()) as answer:
        assert [event.token_ids for event in await anext(answer)] == [(72,)]
        with pytest.raises(TandemError, match="boom"):
            await anext(answer)
        with pytest.raises(StopAsyncIteration):
            await anext(answer)


async def test_leaving_the_block_cancels(frontend, service):
    with await frontend.generate(ask()) as answer:
        await anext(answer)
    assert service.streams[0].cancelled.is_set()
    with pytest.raises(StopAsyncIteration):
        await anext(answer)


async def test_cancelling_the_reader_cancels_the_generation(frontend, service):
    service.script = lambda request: [72, Pause.FOREVER]
    task = asyncio.create_task(read(await frontend.generate(ask())))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.streams[0].cancelled.is_set()


async def test_cancelled_while_tokenising_nothing_is_submitted(frontend, service):
    task = asyncio.create_task(frontend.generate(ask("x" * 2000)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not service.requests


async def test_an_end_without_tokens(frontend: Frontend, service: ScriptedService):
    service.script = lambda request: [ended(FinishReason.STOP)]
    text, token_ids, finished = await read(await frontend.generate(ask()))
    assert (text, token_ids, finished.num_tokens) == ("", [], 0)


async def test_only_those_with_the_same_salt_share_what_is_cached(frontend, service):
    for salt in ("", "a", "a", "b"):
        await read(await frontend.generate(ask("Hi", cache_salt=salt)))
    salts = [request.prefix_salt for request in service.requests]
    assert salts[0] not in salts[1:]
    assert salts[1] == salts[2]
    assert len(set(salts)) == 3


async def test_all_choices_of_a_prompt_share_what_names_its_blocks(frontend, service):
    """Which is hashed once, by a thread if it is long."""
    for length, prompts in ((40, 1), (1500, 8)):
        service.requests.clear()
        texts = tuple(TokenPrompt((65 + each,) * length) for each in range(prompts))
        with await frontend.generate(GenerationRequest(prompts=texts, num_choices=3, max_tokens=4)):
            prefixes = [each.prefix for each in service.requests]
        assert len(prefixes) == 3 * prompts
        assert len({id(each) for each in prefixes}) == prompts
        for request, prefix in zip(service.requests, prefixes, strict=True):
            digests = PromptPrefix(request.prompt_token_ids, 16, request.prefix_salt).digests()
            assert prefix._digests == digests
            assert len(digests) == (length - 1) // 16
