"""What `tandem top` does while gateways come and go, and with orders."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from io import StringIO
from typing import BinaryIO

import pytest
from rich.console import Console
from top_ticks import NOW_US, step, tick, worker

from tandem.cli.top import top
from tandem.cli.top.gateway_page import GatewayPage
from tandem.cli.top.keyboard import read_keys
from tandem.cli.top.picture import Size
from tandem.cli.top.tick import Tick
from tandem.cli.top.top import Watch
from tandem.core.errors import Mismatch, PermissionDenied, TandemError, Unavailable

Told = Tick | TandemError | None


class Page(GatewayPage):
    """A gateway whose connections end after what a test lets them tell; the last one stays."""

    def __init__(self, *connections: list[Told]) -> None:
        super().__init__(None, None)
        self.connections = list(connections)
        self.orders: list[str] = []

    async def ticks(self) -> AsyncIterator[Tick]:  # type: ignore[override]
        for told in self.connections.pop(0):
            if isinstance(told, TandemError):
                raise told
            if isinstance(told, Tick):
                yield told
        if not self.connections:
            await asyncio.Event().wait()

    async def drain(self, worker_id: str, timeout_s: float) -> str:
        self.orders.append(f"drain {worker_id}")
        return "draining"

    async def undrain(self, worker_id: str) -> str:
        raise PermissionDenied("not you")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "RETRY_S", 0.0)
    monkeypatch.setattr(top, "ORDER_S", 0.1)


class Watcher:
    """Somebody who watches."""

    def __init__(self, page: Page) -> None:
        self.seen: list[str] = []
        self.watch = Watch(page, self._show)
        self._changed = asyncio.Event()
        self.running = asyncio.create_task(self.watch.run())

    def _show(self) -> None:
        console = Console(width=80, file=StringIO(), color_system=None)
        with console.capture() as capture:
            console.print(self.watch.picture(Size(80, 24)))
        self.seen.append(capture.get())
        self._changed.set()

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    async def leave(self) -> None:
        self.watch.press("q")
        await self.running

    def says(self, text: str) -> Callable[[], bool]:
        return lambda: bool(self.seen) and text in self.seen[-1]


async def test_a_gateway_that_comes_back_is_another() -> None:
    lanes = {"decode-1": [step(NOW_US, 1000, 1, 1, 0)]}
    first = tick(worker("decode-0"), worker("decode-1"), lanes=lanes)
    # A host that was started anew, whose clock is behind the first one's.
    again = tick(worker("decode-7"), now=NOW_US // 2)
    page = Page([first], [Unavailable("refused")], [Unavailable("refused")], [again])
    watcher = Watcher(page)
    await watcher.until(watcher.says("decode-7"))
    states = [
        each.splitlines()[0].rpartition("colocated:")[2].split(maxsplit=1)[1].strip()
        for each in watcher.seen
    ]
    assert states == ["live", "the gateway is stopping", *["no connection: refused"] * 2, "live"]
    assert "decode-1" in watcher.seen[-2], "the last picture stands"
    assert "decode-1" not in watcher.seen[-1]
    await watcher.leave()


async def test_who_never_was_there_is_not_waited_for() -> None:
    watcher = Watcher(Page([Unavailable("refused")], []))
    with pytest.raises(Unavailable, match="refused"):
        await watcher.running


async def test_what_cannot_be_read_ends_it() -> None:
    watcher = Watcher(Page([tick()], [Mismatch("another version")], []))
    with pytest.raises(Mismatch):
        await watcher.running


async def test_orders_are_given_and_what_became_of_them_is_said() -> None:
    out = worker("decode-1", state="drained")
    page = Page([tick(worker("decode-0"), out)])
    watcher = Watcher(page)
    await watcher.until(watcher.says("live"))
    for key in ("down", "d", "y"):
        watcher.watch.press(key)
    await watcher.until(watcher.says("decode-0 is draining"))
    assert page.orders == ["drain decode-0"]
    for key in ("down", "u"):
        watcher.watch.press(key)
    await watcher.until(watcher.says("not you"))
    await watcher.leave()


async def test_an_order_is_given_though_the_user_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Far(Page):
        async def drain(self, worker_id: str, timeout_s: float) -> str:
            await asyncio.sleep(0.01)
            return await super().drain(worker_id, timeout_s)

    monkeypatch.setattr(top, "ORDER_S", 10.0)
    page = Far([tick(worker("decode-0"))])
    watcher = Watcher(page)
    await watcher.until(watcher.says("live"))
    for key in ("down", "d", "y", "q"):
        watcher.watch.press(key)
    await watcher.running
    assert page.orders == ["drain decode-0"]


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """What is written there comes to this process's stdin."""
    terminal, keyboard = os.pipe()
    with open(terminal) as stdin, open(keyboard, "wb", buffering=0) as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keys


async def test_keys_are_taken_after_such_as_are_not_known(keyboard: BinaryIO) -> None:
    watcher = Watcher(Page([tick()]))
    with top._handlers(watcher.watch, lambda: None):
        for sent in (b"\x1b", b"\x1b[H", b"\x1b[3~", b"\x1b[15~"):
            keyboard.write(sent)
            async with asyncio.timeout(10):
                while select.select([sys.stdin], [], [], 0)[0]:
                    await asyncio.sleep(0)
        keyboard.write(b"q")
        async with asyncio.timeout(10):
            await watcher.running


def test_no_known_key_is_not_the_end_of_keys(keyboard: BinaryIO) -> None:
    keyboard.write(b"\x1b[H")
    assert read_keys(sys.stdin.fileno()) == []
    keyboard.close()
    assert read_keys(sys.stdin.fileno()) is None


async def test_it_can_be_left_while_an_order_is_under_way() -> None:
    given = asyncio.Event()

    class Slow(Page):
        async def drain(self, worker_id: str, timeout_s: float) -> str:
            given.set()
            await asyncio.Event().wait()
            return ""

    watcher = Watcher(Slow([tick(worker("decode-0"))]))
    await watcher.until(watcher.says("live"))
    for key in ("down", "d", "y"):
        watcher.watch.press(key)
    await given.wait()
    await watcher.leave()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
