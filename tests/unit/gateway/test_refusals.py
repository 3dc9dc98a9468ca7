"""Each refusal is counted once, and told in the log."""

from __future__ import annotations

import asyncio
from math import inf
from typing import NoReturn

import pytest
from lone_gateway import new_dispatcher, new_scheduler

from gateway.frontend import MAX_CHARS_READ_AT_ONCE, Frontend
from gateway.offload import Offload
from gateway.request import GenerationRequest, TextPrompt
from gateway.tenants import DEFAULT_TENANT
from tandem.core.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    RateLimitExceeded,
    ResourceExhausted,
    Unavailable,
)

HI = TextPrompt("Hi")
# It takes a thread to read.
LONG = "x" * (MAX_CHARS_READ_AT_ONCE + 1)


def ask(text: str = "Hi", **fields: object) -> GenerationRequest:
    return GenerationRequest(prompts=(TextPrompt(text),), **fields)


@pytest.fixture
def full(monkeypatch):
    """As much is being read as may be."""

    async def run(*args: object, **kwargs: object) -> NoReturn:
        raise ResourceExhausted("too many requests are being read")

    monkeypatch.setattr(Offload, "run", run)


@pytest.mark.usefixtures("full")
async def test_who_finds_no_place_to_be_read(frontend, service, logs):
    for call in (
        frontend.generate(ask(LONG)),
        frontend.tokenize(HI, tuple),
        frontend.detokenize([72], str),
    ):
        with pytest.raises(ResourceExhausted):
            await call
    assert service.refused == {"RESOURCE_EXHAUSTED": 3}
    (line,) = logs
    assert (line["event"], line["tenant"]) == ("requests refused", "default")


async def test_who_is_not_read_in_time(frontend, service, monkeypatch):
    monkeypatch.setattr(Offload, "run", lambda *args, **kwargs: asyncio.sleep(3600))
    with pytest.raises(DeadlineExceeded, match="all of its time"):
        await frontend.generate(ask(LONG, timeout_s=0.01))
    assert service.refused == {"DEADLINE_EXCEEDED": 1}


async def test_who_finds_no_worker(tokenizer, grammars, logs):
    """Nor what the model is: whoever tells of it, of the two."""
    dispatcher = new_dispatcher()
    assert dispatcher.model is None
    frontend = Frontend(dispatcher, tokenizer, grammars)
    calls = (
        (frontend.generate(ask()), "there is no prefill worker$"),
        (frontend.tokenize(HI, tuple), "no model is served"),
        (frontend.detokenize([72], str), "no model is served"),
    )
    for number, (call, why) in enumerate(calls, start=1):
        with pytest.raises(Unavailable, match=why):
            await call
        assert dispatcher.metrics.refused == {"UNAVAILABLE": number}
    assert {each["event"] for each in logs} == {"requests refused"}
    frontend.close()


async def test_what_the_dispatcher_refuses_it_counts_itself(frontend, service, monkeypatch):
    def refuse(*args: object) -> NoReturn:
        raise RateLimitExceeded("it has as much as it may")

    for name in ("submit", "reading", "check_room"):
        monkeypatch.setattr(service, name, refuse)
        with pytest.raises(RateLimitExceeded):
            await frontend.generate(ask())
    with pytest.raises(RateLimitExceeded):
        await frontend.tokenize(HI, tuple)
    assert not service.refused


async def test_what_is_wrong_with_a_request_itself_the_dispatcher_counts_not_either(monkeypatch):
    def refuse(*args: object) -> NoReturn:
        raise InvalidRequest("there are only 4 places")

    scheduler = new_scheduler()
    monkeypatch.setattr(scheduler, "check_room", refuse)
    dispatcher = new_dispatcher(scheduler)
    with pytest.raises(InvalidRequest):
        dispatcher.check_room(DEFAULT_TENANT, 5, inf)
    assert not dispatcher.metrics.refused


async def test_what_is_wrong_with_a_request_itself_is_no_refusal(frontend, service):
    with pytest.raises(ContextLengthExceeded):
        await frontend.generate(ask("x" * 5000))
    with pytest.raises(NotFound):
        await frontend.tokenize(HI, tuple, model="gpt")
    assert not service.refused
