"""Asking a server by HTTP how it is."""

from __future__ import annotations

import asyncio

ANSWER_S = 2.0


async def answers(host: str, port: int, path: str) -> bool:
    """Whether a GET is soon answered by 200."""
    # By hand, since this is one line each way and an HTTP library takes long to import.
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request.encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.startswith(b"HTTP/1.1 200")
