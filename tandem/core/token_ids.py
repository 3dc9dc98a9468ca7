"""Tokens by the thousand: a prompt's.

As an array each takes 4 bytes and not the 36 of an object in a tuple, and all of them go over the
wire as they lie in memory: of 131,072 tokens, which would hold two event loops for 5 and 14 ms.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence

ITEM_BYTES = 4
TYPECODE = "I"
assert array(TYPECODE).itemsize == ITEM_BYTES and sys.byteorder == "little"


def token_array(token_ids: Iterable[int] = ()) -> array[int]:
    """Raises `OverflowError` for what is no id at all."""
    return array(TYPECODE, token_ids)


def joined(token_ids: Sequence[int], more: Sequence[int]) -> Sequence[int]:
    """The one behind the other."""
    if not more:
        return token_ids
    whole = token_array(token_ids)
    whole.extend(more)
    return whole


def to_bytes(token_ids: Sequence[int]) -> bytes:
    """As the wire has them."""
    ids = token_ids if isinstance(token_ids, array) else token_array(token_ids)
    return ids.tobytes()


def from_bytes(data: bytes) -> array[int]:
    """Raises `ValueError` if these are no whole ids."""
    ids = array(TYPECODE)
    ids.frombytes(data)
    return ids
