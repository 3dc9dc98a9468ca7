"""Calls that may take for ever, and cannot be ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from gateway.offload import Job

T = TypeVar("T")


class OwnThread:
    """Makes them one after the other, on a thread that nobody waits for at the end: the event loop
    waits for its own threads, and the process for those of executors. `name`: what it does."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    async def run(self, function: Callable[[], T]) -> T:
        """The result of a call there. Raises what it raises, and `OSError` if there can be no
        thread."""
        self._start()
        done = Future[T]()
        self._jobs.put(Job(function, done))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Let the thread end, once it is through with what it has."""
        self._jobs.put(None)

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(f"no thread to {self._name}: {error}") from error
        self._thread = thread

    def _run(self) -> None:
        while job := self._jobs.get():
            job.run()
