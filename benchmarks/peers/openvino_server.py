"""As little HTTP as can be put around OpenVINO GenAI. Runs in OpenVINO's environment.

One thread: between two steps of the engine the event loop turns once and does what there is to do.
Prompts are token ids, and answers have no text: nothing is tokenised, detokenised or validated,
which real servers do. So what is measured is the engine and a floor of HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import cast

import httptools
import orjson
import uvloop

from peers.openvino_engine import KV_PRECISION, OpenVinoEngine

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
EVENT = (
    b'data: {"object":"text_completion","choices":[{"index":0,"text":""}],'
    b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n'
)


class Stepper:
    """Steps the engine while it has work, one step for each turn of the loop."""

    def __init__(self, engine: OpenVinoEngine) -> None:
        self.engine = engine
        self._is_stepping = False

    def wake(self) -> None:
        """There is work."""
        if not self._is_stepping:
            self._is_stepping = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self.engine.step()
        self._is_stepping = False
        if self.engine.has_work:
            self.wake()


class Connection(asyncio.Protocol):
    """One request; the answer ends with the connection."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._request = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stepper.engine.cancel(self._request)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/v1/completions":
            self._complete()
        else:
            self._transport.write(HEALTHY)
            self._transport.close()

    def _complete(self) -> None:
        wanted = orjson.loads(self._body)
        num_prompt, num_output = len(wanted["prompt"]), wanted["max_tokens"]
        num_tokens = 0
        transport = self._transport

        def on_tokens(count: int) -> None:
            nonlocal num_tokens
            num_tokens += count
            transport.write(EVENT % (num_prompt, num_tokens))
            if num_tokens >= num_output:
                transport.write(b"data: [DONE]\n\n")
                transport.close()

        transport.write(HEAD)
        self._request = self._stepper.engine.add(wanted["prompt"], num_output, on_tokens)
        self._stepper.wake()


async def main(args: argparse.Namespace) -> None:
    stepper = Stepper(OpenVinoEngine(args.model, args.kv_precision))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stepper), "127.0.0.1", args.port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--kv-precision", default=KV_PRECISION)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(main(parser.parse_args()))
