"""What a name stands for, and what is made of name servers that do not know, or do not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread, current_thread

import pytest

from gateway.name_lookup import NameLookup
from tandem.core.address import Address, parse_address

NAME = Address("decode", 50052)


async def look_up() -> list[str]:
    with closing(NameLookup(NAME)) as lookup:
        return await lookup.look_up()


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[str]]) -> None:
    def getaddrinfo(host: str, port: int, **kwargs: object) -> list[object]:
        return [(0, 0, 0, "", (each, port)) for each in answer()]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("text", ["127.0.0.1:7", "[::1]:7"])
async def test_a_number_stands_for_itself(text: str) -> None:
    assert await NameLookup(parse_address(text)).look_up() == [text]


async def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, lambda: ["fd00::2", "10.0.0.3", "10.0.0.2"])
    assert await look_up() == ["10.0.0.2:50052", "10.0.0.3:50052"]


@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_NODATA])
async def test_nothing_is_behind_a_name_that_is_none(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail() -> list[str]:
        raise socket.gaierror(number, "no such name")

    answer_with(monkeypatch, fail)
    assert await look_up() == []


async def test_a_name_server_that_cannot_tell_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    answer_with(monkeypatch, fail)
    with pytest.raises(socket.gaierror, match="try again"):
        await look_up()


class Hanging:
    """A name server that answers once it may."""

    def __init__(self) -> None:
        self.may_answer, self.was_asked, self.has_answered = Event(), Event(), Event()
        self.threads: list[Thread] = []

    def __call__(self) -> list[str]:
        self.threads.append(current_thread())
        self.was_asked.set()
        self.may_answer.wait(30)
        self.has_answered.set()
        return ["10.0.0.2"]

    async def ask_and_give_up(self, lookup: NameLookup) -> None:
        looking = asyncio.create_task(lookup.look_up())
        assert await asyncio.to_thread(self.was_asked.wait, 10)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def test_a_look_up_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop ends while it is under way; its answer is nobody's then."""
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    server = Hanging()
    answer_with(monkeypatch, server)
    with closing(NameLookup(NAME)) as lookup:
        asyncio.run(server.ask_and_give_up(lookup))
        assert not server.has_answered.is_set()
    server.may_answer.set()
    server.threads[0].join(10)
    assert server.has_answered.is_set()
    assert failures == []


async def test_an_answer_that_nobody_waits_for_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: failures.append(what))
    server = Hanging()
    answer_with(monkeypatch, server)
    with closing(NameLookup(NAME)) as lookup:
        await server.ask_and_give_up(lookup)
        server.may_answer.set()
        # One thread answers both, in order.
        assert await lookup.look_up() == ["10.0.0.2:50052"]
    assert failures == []


async def test_a_name_has_one_thread_however_often_it_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[Thread] = []

    def answer() -> list[str]:
        threads.append(current_thread())
        return ["10.0.0.2"]

    answer_with(monkeypatch, answer)
    with closing(NameLookup(NAME)) as lookup:
        for _ in range(5):
            assert await lookup.look_up() == ["10.0.0.2:50052"]
    assert len(threads) == 5 and len(set(threads)) == 1
    await asyncio.to_thread(threads[0].join, 10)
    assert not threads[0].is_alive()
