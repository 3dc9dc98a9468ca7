"""Ending the work for a client that has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import anyio
from starlette.types import Receive

from tandem.core.errors import Cancelled

T = TypeVar("T")


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result. Cancels it, and raises `Cancelled`, as soon as the client leaves.

    The body must have been read. The work runs in the caller's task, so that a result can never
    get lost between two tasks.
    """
    with anyio.CancelScope() as scope:
        watcher = asyncio.create_task(_cancel_on_disconnect(receive, scope))
        try:
            return await work
        finally:
            watcher.cancel()
    raise Cancelled("the client disconnected")


async def _cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
