"""`tandem top` in a terminal, over a gateway that works, goes away and comes back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from running_gateway import Gateway, running_gateway, running_workers
from terminal import Terminal

TOP = (sys.executable, "-m", "tandem.cli", "top")
ALTERNATE_SCREEN, MAIN_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def url(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.http_port}"


async def test_it_is_watched_operated_and_left(terminal: Terminal) -> None:
    async with running_gateway() as gateway:
        watching = await terminal.run(*TOP, "--url", url(gateway))
        await terminal.until("live")
        body = {"prompt": "x" * 200, "max_tokens": 20, "ignore_eos": True}
        async with gateway.client() as client:
            assert (await client.post("/v1/completions", json=body, timeout=60)).status_code == 200
        await terminal.until("1 done")
        terminal.press("p")
        await terminal.until("paused")
        terminal.press("\x1b[B")
        await terminal.until("▸ prefill")
        terminal.press("d")
        await terminal.until("goes on elsewhere")
        terminal.press("y")
        await terminal.until("Workers: no prefill worker serves")
        terminal.press("u")
        await terminal.until("is serving")
        terminal.press("q")
        assert await watching.wait() == 0
        assert terminal.is_as_before()
        assert ALTERNATE_SCREEN in terminal.output
        assert MAIN_SCREEN in terminal.output
        await prints_once(gateway)


async def prints_once(gateway: Gateway) -> None:
    printing = await asyncio.create_subprocess_exec(
        *TOP, "--url", url(gateway), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await printing.communicate()
    assert printing.returncode == 0
    text = printed.decode()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].split() == ["Tandem", "mock,", "1p1d", "live"]
    assert max(map(len, lines)) <= 80
    assert "1 done" in text


async def test_ctrl_c_leaves_and_a_gateway_may_come_back(terminal: Terminal) -> None:
    gateway = Gateway()
    async with running_workers() as workers:
        addresses = [worker.address for worker in workers]
        try:
            await gateway.start_process(*addresses)
            await gateway.until_listening()
            watching = await terminal.run(*TOP, "--url", url(gateway))
            await terminal.until("live")
            gateway.kill()
            await terminal.until("no connection")
            await gateway.start_process(*addresses)
            terminal.press("x")
            await terminal.until("live")
            terminal.press("\x03")
            assert await watching.wait() == 0
            assert terminal.is_as_before()
            assert "Traceback" not in terminal.output
        finally:
            gateway.kill()


async def test_who_is_not_there_is_said_in_a_line(terminal: Terminal) -> None:
    watching = await terminal.run(*TOP, "--url", "http://127.0.0.1:9")
    await terminal.until("start one with `tandem up`, or name one with")
    assert await watching.wait() == 1
    assert terminal.is_as_before()
