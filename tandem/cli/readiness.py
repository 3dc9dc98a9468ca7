"""Asking a gateway whether it serves."""

from __future__ import annotations

import asyncio

from tandem.core.errors import Unavailable
from tandem.process.http_probe import answers

POLL_S = 0.1


async def until_ready(host: str, port: int, timeout_s: float) -> None:
    """Wait until the gateway's /ready answers 200. Raises `Unavailable` after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await answers(host, port, "/ready"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise Unavailable(f"not ready after {timeout_s:.0f} s; see --start-timeout") from None
