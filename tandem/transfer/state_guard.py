"""The lock of a worker's state, and what follows from a change under it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from tandem.core.errors import TandemError

log = structlog.get_logger(__name__)


class StateGuard:
    """Guards a role's state, and the blocks and reservations in it, between a worker's threads.

    Who changes anything does so in a `change`. `lock` alone is for those who only look, or may be
    refused, and for the engine's thread, which waits on it for work. `news` is set on the event
    loop when there may be something to report. `crash` fails with the first error of a thread or of
    the state: the process should end, since how much was changed is not known.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """To be made on the event loop's thread."""
        self.lock = threading.Condition()
        self.news = asyncio.Event()
        self.crash: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._loop_thread = threading.get_ident()

    @contextmanager
    def change(self, is_news: bool = True) -> Iterator[None]:
        """Change the state, let the engine's thread look for work, and, if it `is_news`, have it
        reported. An error ends the worker. Callable from any thread."""
        with self.lock:
            try:
                yield
            except BaseException as error:
                self.crashed(error)
                raise
            self.lock.notify_all()
        if is_news:
            self.wake()

    def wake(self) -> None:
        """There is something to report. Callable from any thread."""
        if threading.get_ident() == self._loop_thread:
            self.news.set()
        else:
            self._loop.call_soon_threadsafe(self.news.set)

    def crashed(self, error: BaseException) -> None:
        """A thread has ended by an error, or the state has raised one. Callable from any thread."""
        self._loop.call_soon_threadsafe(self._crash, error)

    def _crash(self, error: BaseException) -> None:
        if self.crash.done():
            return
        why = error.message if isinstance(error, TandemError) else type(error).__name__
        # On the threads of executors nobody else would tell where it was.
        log.error("the worker is broken", exc_info=error)
        self.crash.set_exception(TandemError(f"the worker is broken: {why}"))
