"""Who asks for another protocol is answered in this one, to what was asked (RFC 9110, 7.8)."""

from __future__ import annotations

import logging

import pytest
from http_client import POST, serving_one

from gateway.http.limits import MAX_BODY_BYTES

# As Java's HttpClient has it.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAI\r\n"
WEB_SOCKET = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
)
BODY = b'{"prompt": "Hi"}'
WITH_LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n7\r\n%b\r\n9\r\n%b\r\n0\r\n\r\n" % (
    BODY[:7],
    BODY[7:],
)
VERSION = b"GET /version HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("num_bytes", [None, 1, 50])
@pytest.mark.parametrize("body", [WITH_LENGTH, IN_CHUNKS], ids=["length", "chunks"])
@pytest.mark.parametrize("upgrade", [H2C, WEB_SOCKET], ids=["h2c", "websocket"])
async def test_a_request_has_its_body_and_others_follow(app, service, upgrade, body, num_bytes):
    request = POST + upgrade + body
    data = request * 2 + VERSION + b"\r\n" + request
    size = num_bytes or len(data)
    async with serving_one(app) as connection:
        await connection.send(*(data[at : at + size] for at in range(0, len(data), size)))
        answers = [await connection.answer() for _ in range(4)]
    assert [status for status, _ in answers] == [200] * 4
    assert [b"choices" in answer for _, answer in answers] == [True, True, False, True]
    assert len(service.requests) == 3


async def test_a_body_that_comes_later_is_no_request(app, service):
    inner = VERSION + b"\r\n"
    async with serving_one(app) as connection:
        await connection.send(POST + H2C + b"Content-Length: %d\r\n\r\n" % len(inner), inner)
        status, answer = await connection.answer()
        assert status == 400 and b'"the body is not valid JSON"' in answer
        await connection.send(POST + WITH_LENGTH)
        assert b"choices" in (await connection.answer())[1]
    assert len(service.requests) == 1


@pytest.mark.parametrize("length", [b"", b"Content-Length: 0\r\n"])
async def test_a_request_without_a_body(app, length):
    async with serving_one(app) as connection:
        for _ in range(2):
            await connection.send((VERSION + WEB_SOCKET + length + b"\r\n") * 2)
            assert [(await connection.answer())[0] for _ in range(2)] == [200, 200]


async def test_a_last_request_is_the_last(app, service):
    last = POST + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n" + WITH_LENGTH
    async with serving_one(app) as connection:
        await connection.send(last + POST + WITH_LENGTH)
        assert (await connection.answer())[0] == 200
        assert await connection.reader.read() == b""
    assert len(service.requests) == 1


async def test_limits_hold(app, service):
    too_long = b" " * MAX_BODY_BYTES
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(too_long) + 1)
    length = b"Content-Length: %d\r\n\r\n"
    for rest, refusal in (
        (length % 10**8, 413),
        (chunked + too_long + b" ", 413),
        (length % 5 + b"{", 408),
        (chunked + b"{", 408),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: %b\r\n" % (b"a" * 60) * 2000, 431),
        (b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nx\r\n", 400),
    ):
        body_timeout_s = 0.25 if refusal == 408 else 60.0
        async with serving_one(app, body_timeout_s=body_timeout_s) as connection:
            await connection.send(POST + H2C + rest)
            assert (await connection.answer())[0] == refusal
            assert await connection.reader.read() == b""
    assert not service.requests


@pytest.mark.parametrize("target", [b"x:80", b"/version"])
async def test_connect_is_refused(app, service, target):
    async with serving_one(app) as connection:
        await connection.send(b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        status, answer = await connection.answer()
        assert status == 405 and b'"method_not_allowed"' in answer
        await connection.send(POST + WITH_LENGTH)
        assert await connection.reader.read() == b""
    assert not service.requests


async def test_nothing_is_logged(app, caplog):
    with caplog.at_level(logging.INFO, "uvicorn.error"):
        async with serving_one(app) as connection:
            await connection.send(POST + H2C + WITH_LENGTH)
            assert await connection.status() == 200
    assert not [each for each in caplog.messages if "pgrade" in each or "WebSocket" in each]
