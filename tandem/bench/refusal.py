"""What a server says when it does not serve, in a line."""

from __future__ import annotations

from typing import Any

import httpx2
import orjson

MAX_CHARS = 200


def refusal_text(status: int, body: bytes) -> str:
    """`status 429 rate_limit_exceeded: too many requests`: as much of it as there is."""
    try:
        said = orjson.loads(body)
    except ValueError:
        said = body.decode(errors="replace")
    code, message = _code_and_message(said)
    return _joined(f"status {status} {code}".rstrip(), message)


def error_text(said: object) -> str:
    """The same of the `error` that comes in mid-stream."""
    code, message = _code_and_message({"error": said})
    return _joined(f"error {code}".rstrip(), message)


def http_error_text(error: Exception) -> str:
    """What has gone wrong with a request of httpx's, without its advice; never empty."""
    if isinstance(error, httpx2.HTTPStatusError):
        return refusal_text(error.response.status_code, error.response.content)
    return str(error) or type(error).__name__


def _joined(kind: str, message: str) -> str:
    line = " ".join(message.split())[:MAX_CHARS]
    return f"{kind}: {line}" if line else kind


def _code_and_message(said: Any) -> tuple[str, str]:
    """OpenAI's `error`, or what others have in its place (`detail`, `message`)."""
    inner = (said.get("error") or said.get("detail") or said) if isinstance(said, dict) else said
    if not isinstance(inner, dict):
        return "", _plain(inner)
    code = inner.get("code") or inner.get("type")
    code = code if isinstance(code, str) else ""
    return code, _plain(inner.get("message") or ("" if code else inner))


def _plain(said: Any) -> str:
    return said if isinstance(said, str) else orjson.dumps(said).decode()
