"""What the gateway knows of the workers' caches, and who may share them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prefix_index import PrefixIndex, PromptPrefix
from gateway.prefix_salt import prefix_salt
from tandem.core.prefix import PrefixChain, digest
from tandem.core.prefix_cache import CacheChanges

TOKENS = tuple(range(11))
BLOCKS = [digest(each) for each in PrefixChain(TOKENS, 2, b"").between(0, 5)]


def index(*added: int, max_blocks: int = 100) -> PrefixIndex:
    made = PrefixIndex(max_blocks)
    made.apply(CacheChanges(added=added))
    return made


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ((), 0),
        (BLOCKS, 10),
        (BLOCKS[:3], 6),
        # What comes behind a block that is missing is of no use.
        (BLOCKS[1:], 0),
        ((BLOCKS[0], *BLOCKS[2:]), 2),
    ],
)
def test_tokens_are_cached_up_to_the_first_block_that_is_not(
    cached: tuple[int, ...], expected: int
) -> None:
    assert PromptPrefix(TOKENS, 2, b"").num_cached_tokens(index(*cached)) == expected
    assert PromptPrefix(TOKENS, 2, b"salt").num_cached_tokens(index(*cached)) == 0


def test_the_last_token_never_counts_as_cached() -> None:
    assert PromptPrefix(TOKENS[:10], 2, b"").num_cached_tokens(index(*BLOCKS)) == 8


def test_each_workers_changes_are_seen() -> None:
    prompt, one, other = PromptPrefix(TOKENS, 2, b""), index(*BLOCKS), index()
    assert (prompt.num_cached_tokens(one), prompt.num_cached_tokens(other)) == (10, 0)
    one.apply(CacheChanges(removed=(BLOCKS[4],)))
    other.apply(CacheChanges(added=(BLOCKS[0],)))
    assert (prompt.num_cached_tokens(one), prompt.num_cached_tokens(other)) == (8, 2)


def test_a_whole_cache_voids_what_was_known() -> None:
    known = index(*BLOCKS)
    known.apply(CacheChanges(added=tuple(BLOCKS[:1]), whole=True))
    assert PromptPrefix(TOKENS, 2, b"").num_cached_tokens(known) == 2


@given(st.lists(st.lists(st.integers(0, 50), max_size=30), max_size=10))
def test_it_never_holds_more_than_a_pool_can(added: list[list[int]]) -> None:
    known = PrefixIndex(8)
    for each in added:
        known.apply(CacheChanges(added=tuple(each), removed=(99,)))
        assert len(known._digests) <= 8
        assert len(known._digests) >= min(8, len(set(each)))


PARTS = st.text(max_size=3)


@given(PARTS, PARTS, PARTS, PARTS)
def test_only_the_same_tenant_and_salt_share(a: str, b: str, c: str, d: str) -> None:
    assert (prefix_salt(a, b) == prefix_salt(c, d)) is ((a, b) == (c, d))


def test_those_of_a_tenant_share_who_have_no_salt() -> None:
    assert prefix_salt("a", "") == prefix_salt("a", "") != prefix_salt("b", "")


def test_a_salt_may_be_any_text_that_json_can_say() -> None:
    assert prefix_salt("", "\ud800")


def test_a_prompt_that_grows_leaves_those_that_share_it_as_they_were() -> None:
    shared, known = PromptPrefix(TOKENS[:4], 2, b""), index(*BLOCKS)
    assert shared.num_cached_tokens(known) == 2
    grown = shared.grown(TOKENS)
    assert grown.digests() == PromptPrefix(TOKENS, 2, b"").digests()
    assert grown.num_cached_tokens(known) == PromptPrefix(TOKENS, 2, b"").num_cached_tokens(known)
    assert shared.digests() == PromptPrefix(TOKENS[:4], 2, b"").digests()
    assert shared.num_cached_tokens(known) == 2
    others = (*TOKENS[:4], 90, 91, 92)
    assert shared.grown(others).digests() == PromptPrefix(others, 2, b"").digests()


def test_what_names_the_blocks_is_not_copied() -> None:
    prompt = PromptPrefix(TOKENS, 2, b"")
    assert prompt.digests() is prompt.digests()
