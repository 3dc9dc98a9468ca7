"""A body's long list of token ids, or of lists of these, read a little at a time.

One call that reads all of 131,072 ids has the event loop for 6 ms, and checking their types for 3
more; a thread would not help, since such calls hold the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from typing import Any

import orjson

from gateway.limits import MAX_CHOICES, MAX_PROMPT_TOKENS, check_count
from tandem.core.token_ids import token_array

# What is read at a time takes a quarter of a millisecond; what is no longer than twice that is read
# at once.
PIECE_BYTES = 2**15
# The fields that hold such lists.
FIELDS = (b'"prompt"', b'"tokens"')
SPACE = rb"[ \t\r\n]*"
BEGINNING = re.compile(rb"%b:%b\[(%b\[)?" % (SPACE, SPACE, SPACE))
# Behind a list of a list: up to the next one's ids, or all of it.
FOLLOWING = re.compile(rb"%b(?:,%b\[|\])" % (SPACE, SPACE))
LIST_BYTES = b"0123456789, \t\r\n"
STAND_IN = "the list that was read by itself"


async def read_with_list(body: bytes) -> Any | None:
    """The JSON value of `body`, an object, with one field's list of ids as an array, or its list of
    such lists as arrays. None, and then it is to be read as a whole, if it is short, or there is no
    such list or anything is not as it should be. Raises `InvalidRequest` for more ids in a list
    than any prompt has."""
    if len(body) < 2 * PIECE_BYTES:
        return None
    for name in FIELDS:
        beginning = BEGINNING.match(body, body.find(name) + len(name)) if name in body else None
        if beginning is None:
            continue
        found: tuple[array[int] | list[array[int]], int] | None
        if beginning[1]:
            found = await _read_lists(body, beginning.end())
        else:
            found = await _read_list(body, beginning.end())
        if found:
            return _with_list(body, body.index(b"[", beginning.start()), name, *found)
    return None


async def _read_lists(body: bytes, first: int) -> tuple[list[array[int]], int] | None:
    """Those of a list, of which the first one's ids begin there, and where it ends."""
    lists: list[array[int]] = []
    while len(lists) < MAX_CHOICES and (found := await _read_list(body, first)):
        ids, end = found
        lists.append(ids)
        following = FOLLOWING.match(body, end)
        if following is None:
            return None
        first = following.end()
        if following[0].endswith(b"]"):
            return lists, first
    return None


async def _read_list(body: bytes, first: int) -> tuple[array[int], int] | None:
    """The ids that begin there, and where their list ends."""
    last = body.find(b"]", first)
    ids = await _read_ids(body, first, last)
    return None if ids is None or last < 0 else (ids, last + 1)


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


def _with_list(
    body: bytes, first: int, name: bytes, ids: array[int] | list[array[int]], end: int
) -> Any | None:
    try:
        value = orjson.loads(b'%b"%b"%b' % (body[:first], STAND_IN.encode(), body[end:]))
    except orjson.JSONDecodeError:
        return None
    field = name.decode().strip('"')
    # Or it was another object's, or a later one of the same name counts.
    if not isinstance(value, dict) or value.get(field) != STAND_IN:
        return None
    for each in (ids,) if isinstance(ids, array) else ids:
        check_count(len(each), MAX_PROMPT_TOKENS, field)
    value[field] = ids
    return value
