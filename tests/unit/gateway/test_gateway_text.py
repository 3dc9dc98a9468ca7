from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.text import StopFinder, TokenText
from tandem.artifacts.tokenizer import Tokenizer

# Few letters, so that partial matches and overlaps are common.
# And some of which none is in a stop string.
texts = st.text(alphabet="abéxyz", max_size=40)
stops = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), max_size=4)


def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the text is to be cut, by definition."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return end - max(lengths)
    return None


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(bounds)]


@given(texts, stops, st.lists(st.integers(0, 100)))
def test_the_cut_is_the_definition_however_the_text_is_cut_up(text, stops, cuts):
    finder = StopFinder(stops)
    shown = ""
    for piece in pieces_of(text, cuts):
        if finder.found:
            break
        shown += finder.push(piece)
    if not finder.found:
        shown += finder.flush()
    cut = first_stop(text, stops)
    assert finder.found == (cut is not None)
    assert shown == text[:cut]


@given(texts, stops)
def test_no_more_than_a_partial_match_is_held_back(text, stops):
    finder = StopFinder(stops)
    shown = ""
    for end, character in enumerate(text, start=1):
        shown += finder.push(character)
        if finder.found:
            break
        held = text[len(shown) : end]
        assert held == "" or any(stop.startswith(held) for stop in stops)
        assert not any(
            text[:end].endswith(stop[:n]) for stop in stops for n in range(len(held) + 1, len(stop))
        )


def test_what_begins_no_stop_is_not_looked_through(monkeypatch):
    finder = StopFinder(["###", "</s>"])
    with monkeypatch.context() as patched:
        patched.delattr("gateway.text._Matcher.push")
        assert finder.push("Hello, world") == "Hello, world"
    assert finder.push("a#") == "a"
    # Nor is anything missed behind what is held.
    assert finder.push("ab") == "#ab"
    assert finder.push("#") == ""
    assert finder.push("##b") == ""
    assert finder.found


@given(st.text(max_size=30))
def test_without_stops_the_text_is_the_tokens_text(tokenizer: Tokenizer, text):
    ids = tokenizer.encode(text)
    token_text = TokenText(tokenizer.decode_stream())
    shown = "".join([token_text.push(token_id) for token_id in ids]) + token_text.flush()
    assert shown == tokenizer.decode(ids)


def test_a_stop_spans_tokens_and_bytes_of_a_character(tokenizer: Tokenizer):
    token_text = TokenText(tokenizer.decode_stream(), ["é!"])
    ids = tokenizer.encode("café!x")
    assert [token_text.push(i) for i in ids[:5]] == ["c", "a", "f", "", ""]
    assert token_text.push(ids[5]) == ""
    assert token_text.stopped


def test_flush_may_complete_a_stop(tokenizer: Tokenizer):
    token_text = TokenText(tokenizer.decode_stream(), ["\N{REPLACEMENT CHARACTER}"])
    ids = tokenizer.encode("aé")
    assert token_text.push(ids[0]) + token_text.push(ids[1]) == "a"
    assert token_text.flush() == ""
    assert token_text.stopped


def test_a_hostile_stop_is_linear_work():
    finder = StopFinder(["a" * 255 + "b"] * 16)
    text = "a" * 20_000
    assert len(finder.push(text) + finder.flush()) == len(text)
