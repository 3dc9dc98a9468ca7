"""What names a block: its tokens, all before them, and the salt."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.prefix import SEED, PrefixChain, digest, digests
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import Sequence, SequenceKey

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=40)


def chain(tokens: list[int], salt: bytes = b"", block_size: int = 4) -> list[bytes]:
    prefix = PrefixChain(tokens, block_size, salt)
    return list(prefix.between(0, prefix.num_full_blocks(len(tokens))))


def test_the_hash_is_what_the_wire_says() -> None:
    """Worked out by hand: workers and gateways of other builds must agree."""
    root = hashlib.sha256(SEED + b"salt").digest()
    first = hashlib.sha256(root + struct.pack("<4i", 1, 2, 3, 4)).digest()
    second = hashlib.sha256(first + struct.pack("<4i", 5, 6, 7, 2**31 - 1)).digest()
    assert chain([1, 2, 3, 4, 5, 6, 7, 2**31 - 1, 9], b"salt") == [first, second]
    assert digest(first) == int.from_bytes(first[:8], "little")
    assert [*digests([first, second])] == [digest(first), digest(second)]
    assert [*digests([])] == []


@given(TOKENS, TOKENS)
def test_blocks_are_the_same_as_far_as_all_before_them_are(a: list[int], b: list[int]) -> None:
    pairs = list(zip(chain(a), chain(b), strict=False))
    for index, (left, right) in enumerate(pairs):
        assert (left == right) is (a[: 4 * (index + 1)] == b[: 4 * (index + 1)])


@given(TOKENS, st.binary(max_size=4), st.binary(max_size=4))
def test_another_salt_shares_nothing(tokens: list[int], one: bytes, other: bytes) -> None:
    if one != other:
        assert not set(chain(tokens, one)) & set(chain(tokens, other))


@given(TOKENS, st.lists(st.integers(0, 10), max_size=6))
def test_hashes_may_be_asked_for_in_any_order_while_the_sequence_grows(
    tokens: list[int], firsts: list[int]
) -> None:
    expected = chain(tokens)
    growing: list[int] = []
    prefix = PrefixChain(growing, 4, b"")
    for token in tokens:
        growing.append(token)
        for first in firsts:
            end = len(growing) // 4
            if first <= end:
                assert list(prefix.between(first, end)) == expected[first:end]


@pytest.mark.parametrize("num_prompt_tokens", [1, 4, 6, 9])
def test_prompt_and_answer_are_one_sequence(num_prompt_tokens: int) -> None:
    tokens = list(range(9))
    sequence = Sequence(
        1,
        SequenceKey("r"),
        tuple(tokens[:num_prompt_tokens]),
        SamplingParams(max_tokens=9, seed=0),
        tokens[num_prompt_tokens:],
    )
    for start in range(9):
        for end in range(start, 10):
            assert list(sequence[start:end]) == tokens[start:end]
    assert list(PrefixChain(sequence, 4, b"").between(0, 2)) == chain(tokens)
