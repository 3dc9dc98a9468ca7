"""Traces of arrivals: files with a line of JSON for each request.

Mooncake's form: `timestamp` in milliseconds, `input_length` and `output_length` in tokens, and
`hash_ids`, one for each 512 tokens of the prompt, which name a block and all before it: requests
with the same begin with the same tokens. Or prompts themselves: `prompt`, a text or token ids, with
`output_length` or `max_tokens`, and a `timestamp` if arrivals are to be the trace's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError

BLOCK = 512
MAX_TOKENS = 1 << 20

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """The request of a line. `at_s` is on the trace's clock, None if it does not say. The prompt is
    `content` (a text or token ids), or `num_prompt` tokens of the blocks `hash_ids`."""

    line: int
    at_s: float | None
    num_output: int
    content: str | tuple[int, ...] | None = None
    num_prompt: int = 0
    hash_ids: tuple[int, ...] = ()


class MadePrompts:
    """Prompts of a trace, with made-up tokens out of `token_ids` where it spells out none, and all
    lengths times `scale`. Tokens are drawn by numpy, since a prompt is made while others stream."""

    def __init__(self, token_ids: Sequence[int], seed: str, scale: float = 1.0) -> None:
        self._token_ids = np.asarray(token_ids)
        self._seed = seed
        self._scale = scale

    def prompt(self, request: TracedRequest) -> Prompt:
        num_output = max(1, round(request.num_output * self._scale))
        match request.content:
            case None:
                return Prompt(self._tokens(request), num_output)
            case str() as text:
                return Prompt((), num_output, text)
            case ids:
                return Prompt(ids, num_output)

    def _tokens(self, request: TracedRequest) -> tuple[int, ...]:
        num_prompt = max(1, round(request.num_prompt * self._scale))
        block = max(1, round(BLOCK * self._scale))
        tokens: list[int] = []
        for hash_id in request.hash_ids:
            tokens += self._drawn(f"block {hash_id}", block)
        # A trace without hashes, or with too few, shares nothing beyond them.
        rest = num_prompt - len(tokens)
        if rest > 0:
            tokens += self._drawn(f"line {request.line}", rest)
        return tuple(tokens[:num_prompt])

    def _drawn(self, name: str, count: int) -> list[int]:
        """The same for the same name."""
        digest = hashlib.blake2b(f"{self._seed} {name}".encode(), digest_size=16).digest()
        rng = np.random.default_rng(int.from_bytes(digest))
        drawn: list[int] = self._token_ids[rng.integers(len(self._token_ids), size=count)].tolist()
        return drawn


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival. `digest` is of the file that they come from."""

    requests: tuple[TracedRequest, ...]
    digest: str = ""

    @property
    def is_timed(self) -> bool:
        """Whether it says when each comes."""
        return all(each.at_s is not None for each in self.requests)

    def arrivals(self, speed: float = 1.0) -> Iterator[float]:
        """Seconds from the first one, `speed` times as fast."""
        times = [each.at_s or 0.0 for each in self.requests]
        for each in times:
            yield (each - times[0]) / speed


def read_trace(file: Path, limit: int | None = None) -> Trace:
    """The first `limit` requests, or all. Raises `ConfigError`, which names the line."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", param="trace") from None
    numbered = enumerate(content.splitlines(), 1)
    requests = [_read(line, number, file) for number, line in numbered if line.strip()]
    if not requests:
        raise ConfigError(f"{file} has no requests", param="trace")
    timed = [each.at_s is not None for each in requests]
    if any(timed) and not all(timed):
        raise ConfigError(f"{file}: all requests have a timestamp, or none", param="trace")
    if all(timed):
        requests.sort(key=lambda each: each.at_s or 0.0)
    return Trace(tuple(requests[:limit]), digest_of(content))


def digest_of(content: bytes) -> str:
    """What tells a file's content from another's."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _read(line: bytes, number: int, file: Path) -> TracedRequest:
    try:
        fields = orjson.loads(line)
        if not isinstance(fields, dict):
            raise ValueError("no JSON object")
        return TracedRequest(number, _time(fields), _num_output(fields), *_prompt(fields))
    except ValueError as error:
        raise ConfigError(f"{file}:{number}: {error}", param="trace") from None


def _time(fields: Json) -> float | None:
    milliseconds = fields.get("timestamp")
    if milliseconds is None:
        return None
    if not isinstance(milliseconds, int | float) or not isfinite(milliseconds):
        raise ValueError("a timestamp is in milliseconds")
    return milliseconds / 1e3


def _num_output(fields: Json) -> int:
    for name in ("output_length", "max_tokens"):
        if name in fields:
            return _length(fields, name)
    raise ValueError("output_length is missing")


def _prompt(fields: Json) -> tuple[str | tuple[int, ...] | None, int, tuple[int, ...]]:
    match fields.get("prompt"):
        case None:
            hash_ids = fields.get("hash_ids", [])
            if not _are_ids(hash_ids):
                raise ValueError("hash_ids are numbers")
            return None, _length(fields, "input_length"), tuple(hash_ids)
        case str() as text if text:
            return text, 0, ()
        case list() as ids if ids and _are_ids(ids):
            return tuple(ids), 0, ()
    raise ValueError("a prompt is a text, or token ids")


def _length(fields: Json, name: str) -> int:
    length = fields.get(name)
    if not isinstance(length, int) or not 1 <= length <= MAX_TOKENS:
        raise ValueError(f"{name} is from 1 to {MAX_TOKENS} tokens")
    return length


def _are_ids(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in values
    )
