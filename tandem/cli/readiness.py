"""Asking a gateway whether it serves."""

from __future__ import annotations

import asyncio

from tandem.core.errors import Unavailable

POLL_S = 0.1
ANSWER_S = 2.0


async def until_ready(host: str, port: int, timeout_s: float) -> None:
    """Wait until the gateway's /ready answers 200. Raises `Unavailable` after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_ready(host, port):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise Unavailable(f"not ready after {timeout_s:.0f} s; see --start-timeout") from None


async def is_ready(host: str, port: int) -> bool:
    """Whether the gateway would serve a request."""
    # By hand, since this is one line each way and an HTTP library takes long to import.
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /ready HTTP/1.0\r\n\r\n")
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status
