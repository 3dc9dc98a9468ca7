"""The parser of what a connection brings, for a server that speaks HTTP/1.1 and nothing else."""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The headers that say where a body ends.
FRAMING = (b"content-length", b"transfer-encoding")


class RequestParser:
    """httptools' parser, but that nothing is upgraded. A request with `Upgrade` is served as it is
    (RFC 9110, 7.8), but that parser takes what follows its head for another protocol's, and what
    comes later for further requests: a body would be one.

    So a new parser goes on behind the head. It is given a head first that has the same body and no
    `Upgrade`, of which the protocol is not told."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        """`protocol` has this as its `parser`."""
        self._protocol = protocol
        self._begin(_Teller(protocol))

    def feed_data(self, data: bytes) -> None:
        """Parse what comes next. Raises `httptools.HttpParserError`."""
        rest = self._parse(data)
        while rest is not None:
            rest = self._parse(rest)

    def get_method(self) -> bytes:
        """Of the request whose head is complete; so are the others."""
        return self._parser.get_method()

    def get_http_version(self) -> str:
        return self._parser.get_http_version()

    def should_keep_alive(self) -> bool:
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Whether it asks to be upgraded, and is about to be read on without that."""
        return self._parser.should_upgrade()

    def _begin(self, teller: _Teller) -> None:
        self._parser = httptools.HttpRequestParser(teller)
        # As uvicorn has it: what comes behind a last request is dropped.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _parse(self, data: bytes) -> bytes | None:
        """What is behind a head that asks for an upgrade, if there is one."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on()
            return data[upgrade.args[0] :]
        return None

    def _go_on(self) -> None:
        """Be where the old parser would be without the upgrade."""
        head = self._head_without_upgrade()
        teller = _Teller(self._protocol)
        self._begin(teller)
        teller.is_silent = True
        self._parser.feed_data(head)
        teller.is_silent = False

    def _head_without_upgrade(self) -> bytes:
        connection = b"keep-alive" if self.should_keep_alive() else b"close"
        lines = [b"POST / HTTP/1.1", b"Connection: " + connection]
        # None if it is refused, and so was all before it.
        for name, value in self._protocol.headers or ():
            if name in FRAMING:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])


class _Teller:
    """Tells a protocol of what is parsed, but of no head while it `is_silent`."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = protocol
        self.is_silent = False
        self.on_body = protocol.on_body

    def on_message_begin(self) -> None:
        if not self.is_silent:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.is_silent:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_silent:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.is_silent:
            self._protocol.on_headers_complete()

    def on_message_complete(self) -> None:
        """Behind a head that asks for an upgrade this is told too early."""
        if not self._protocol.parser.should_upgrade():
            self._protocol.on_message_complete()
