"""`tandem top`: the page's picture in a terminal, live, or printed once."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from tandem.cli.reaching import reaching_gateway
from tandem.cli.top.gateway_page import GatewayPage
from tandem.cli.top.history import History
from tandem.cli.top.keyboard import keys_as_pressed, read_keys
from tandem.cli.top.picture import Size, picture
from tandem.cli.top.view import DRAIN_S, Order, View
from tandem.core.errors import ResourceExhausted, TandemError, Unavailable

RETRY_S = 1.5
# For so long a picture is watched before it is printed: then there are rates.
ONCE_S = 1.25
# How long a user who leaves waits for the answer to an order.
ORDER_S = 1.0
STOPPING = "the gateway is stopping"
QUIT = "q"


def show_top(url: str | None, api_key: str | None, *, once: bool) -> None:
    """Watch until the user leaves; print one picture if there is no terminal, or `once` is wanted.
    Raises `TandemError`, but not for a gateway that goes away later on."""
    console = Console(highlight=False)
    is_live = sys.stdin.isatty() and console.is_terminal and not console.is_dumb_terminal
    watching = _print_once if once or not is_live else _watch
    with reaching_gateway("--url URL"):
        asyncio.run(watching(console, url, api_key))


class Watch:
    """What is known and seen, and changes as ticks come and keys are pressed. `show` is called when
    there is something new."""

    def __init__(self, page: GatewayPage, show: Callable[[], None]) -> None:
        self._page = page
        self._show = show
        self._history = History()
        self._view = View()
        self._status = f"connecting to {page.url}"
        self._orders: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()

    def picture(self, size: Size) -> RenderableType:
        """As of now."""
        return picture(self._history, self._view, self._status, size, has_keys=True)

    def press(self, key: str) -> None:
        """A key was pressed."""
        if key == QUIT:
            self.leave()
        elif order := self._view.press(key, self._history):
            task = asyncio.create_task(self._give(order))
            self._orders.add(task)
            task.add_done_callback(self._orders.discard)
        self._show()

    def leave(self) -> None:
        """End `run`."""
        self._left.set()

    async def run(self) -> None:
        """Read the feed until the user leaves. Raises `TandemError` if there is none at first, or
        later none that can be read."""
        try:
            await _first_of(self._read(), self._left.wait())
        finally:
            # Who confirms an order and leaves at once has given it.
            if self._orders:
                await asyncio.wait(self._orders, timeout=ORDER_S)
            for order in self._orders:
                order.cancel()

    async def _read(self) -> None:
        while True:
            try:
                await self._read_one_connection()
                self._status = STOPPING
            except (Unavailable, ResourceExhausted) as error:
                if self._history.tick is None:
                    raise
                self._status = f"no connection: {error.message}"
            self._show()
            await asyncio.sleep(RETRY_S)

    async def _read_one_connection(self) -> None:
        is_first = True
        async with aclosing(self._page.ticks()) as ticks:
            async for tick in ticks:
                if is_first:
                    self._history.reset()
                    is_first = False
                self._history.take(tick)
                self._status = ""
                self._show()

    async def _give(self, order: Order) -> None:
        try:
            if order.verb == "drain":
                state = await self._page.drain(order.worker_id, DRAIN_S)
            else:
                state = await self._page.undrain(order.worker_id)
            self._view.notice = f"{order.worker_id} is {state}"
        except TandemError as error:
            self._view.notice = error.message
        self._show()


async def _watch(console: Console, url: str | None, api_key: str | None) -> None:
    async with GatewayPage(url, api_key) as page:
        changed = asyncio.Event()
        watch = Watch(page, changed.set)
        with (
            keys_as_pressed(sys.stdin.fileno()),
            _screen(console, watch) as draw,
            _handlers(watch, changed.set),
        ):
            await _first_of(watch.run(), _draw(changed, draw))


async def _first_of(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Wait until one ends; the others end with it. Raises what that one raises."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _draw(changed: asyncio.Event, draw: Callable[[], None]) -> None:
    """Whatever comes at a time is drawn at once."""
    while True:
        draw()
        await changed.wait()
        changed.clear()


@contextmanager
def _screen(console: Console, watch: Watch) -> Iterator[Callable[[], None]]:
    """What draws the picture, on a screen of its own for the time of the block."""

    def see() -> RenderableType:
        return watch.picture(Size(*console.size))

    with Live(
        console=console, screen=True, auto_refresh=False, get_renderable=see, redirect_stderr=False
    ) as live:
        yield live.refresh


@contextmanager
def _handlers(watch: Watch, resized: Callable[[], None]) -> Iterator[None]:
    """Keys and signals come to `watch`, for the time of the block."""
    loop = asyncio.get_running_loop()
    fd = sys.stdin.fileno()

    def on_keys() -> None:
        keys = read_keys(fd)
        if keys is None:
            loop.remove_reader(fd)
        for key in keys or ():
            watch.press(key)

    loop.add_reader(fd, on_keys)
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(ending, watch.leave)
    loop.add_signal_handler(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        loop.remove_reader(fd)


async def _print_once(console: Console, url: str | None, api_key: str | None) -> None:
    async with GatewayPage(url, api_key) as page:
        history = await _watched(page)
    console.print(picture(history, View(), "", Size(console.width, None), has_keys=False))


async def _watched(page: GatewayPage) -> History:
    """What is told within `ONCE_S`."""
    history = History()
    loop = asyncio.get_running_loop()
    end_s = None
    async with aclosing(page.ticks()) as ticks:
        async for tick in ticks:
            history.take(tick)
            end_s = end_s or loop.time() + ONCE_S
            if loop.time() >= end_s:
                return history
    raise Unavailable(STOPPING)
