"""A body's long list of token ids, read a little at a time.

One call that reads all of 131,072 ids has the event loop for 6 ms, and checking their types for 3
more; a thread would not help, since such calls hold the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from typing import Any

import orjson

from gateway.limits import MAX_PROMPT_TOKENS, check_count
from tandem.core.token_ids import token_array

# What is read at a time takes a quarter of a millisecond; what is no longer than twice that is read
# at once.
PIECE_BYTES = 2**15
# The fields that hold such lists.
FIELDS = (b'"prompt"', b'"tokens"')
BEGINNING = re.compile(rb"\s*:\s*\[")
LIST_BYTES = b"0123456789, \t\r\n"
STAND_IN = "the list that was read by itself"


async def read_with_list(body: bytes) -> Any | None:
    """The JSON value of `body`, an object, with one field's long list of ids as an array. None, and
    then it is to be read as a whole, if there is no such list or anything is not as it should be.
    Raises `InvalidRequest` for more ids than any prompt has."""
    if len(body) < 2 * PIECE_BYTES:
        return None
    for name in FIELDS:
        beginning = BEGINNING.match(body, body.find(name) + len(name)) if name in body else None
        if beginning is None:
            continue
        first, last = beginning.end(), body.find(b"]", beginning.end())
        if last - first < 2 * PIECE_BYTES:
            continue
        ids = await _read_ids(body, first, last)
        return None if ids is None else _with_list(body, first - 1, last + 1, name, ids)
    return None


async def _read_ids(body: bytes, first: int, last: int) -> array[int] | None:
    ids = token_array()
    while first <= last:
        # The loop's turn: what was done of the body before took its time, too.
        await asyncio.sleep(0)
        comma = body.find(b",", first + PIECE_BYTES, last)
        end = last if comma < 0 else comma
        piece = body[first:end]
        if piece.translate(None, LIST_BYTES):
            return None
        try:
            few = orjson.loads(b"[%b]" % piece)
            ids.extend(few)
        except (orjson.JSONDecodeError, OverflowError, TypeError):
            return None
        if not few:
            # A comma with nothing on one side.
            return None
        first = end + 1
    return ids


def _with_list(body: bytes, first: int, last: int, name: bytes, ids: array[int]) -> Any | None:
    try:
        value = orjson.loads(b'%b"%b"%b' % (body[:first], STAND_IN.encode(), body[last:]))
    except orjson.JSONDecodeError:
        return None
    field = name.decode().strip('"')
    # Or it was another object's, or a later one of the same name counts.
    if not isinstance(value, dict) or value.get(field) != STAND_IN:
        return None
    check_count(len(ids), MAX_PROMPT_TOKENS, field)
    value[field] = ids
    return value
