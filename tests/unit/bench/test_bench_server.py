"""Servers that are put under load end with whoever started them."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tandem.bench.server import Server, ServerSpec, running

# Answers, and heeds no wish to stop.
STUBBORN = """
import signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

signal.signal(signal.SIGINT, signal.SIG_IGN)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response_only(200)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def test_who_is_told_to_stop_twice_leaves_no_server(tmp_path: Path) -> None:
    """The first time it is asked, and waited for."""
    ready: asyncio.Future[Server] = asyncio.get_running_loop().create_future()

    async def measure() -> None:
        spec = ServerSpec("stubborn", (sys.executable, "-c", STUBBORN, "{port}"), "/")
        async with running(spec, tmp_path) as server:
            ready.set_result(server)
            await asyncio.Event().wait()

    measuring = asyncio.create_task(measure())
    process = os.pidfd_open((await ready).pid)
    try:
        measuring.cancel()
        # It asks now, and waits on a thread.
        await asyncio.sleep(0)
        assert not measuring.done()
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        has_ended, *_ = await asyncio.to_thread(select.select, [process], [], [], 10)
        assert has_ended
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)
