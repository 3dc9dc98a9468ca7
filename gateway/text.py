"""Generated tokens to text: detokenising piece by piece, and stop strings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Protocol

# A request may have 32, for each of 128 answers.
MAX_KNOWN_STOPS = 256


class Detokenizer(Protocol):
    """What `Tokenizer.decode_stream()` returns."""

    def push(self, token_id: int) -> str:
        """The text that this token completes."""
        ...

    def flush(self) -> str:
        """The text held back so far."""
        ...


class TokenText:
    """The text of one choice as its tokens come, up to the first stop string.

    With `include_stop` the stop string is part of it. What the first `min_tokens` tokens say does
    not count as one. `silent` tokens say nothing: those that end a text.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
        silent: Collection[int] = (),
    ) -> None:
        self._detokenizer = detokenizer
        self._finder = StopFinder(stops, include_stop)
        self._num_unchecked = min_tokens
        self._silent = silent
        self.num_chars = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found. Nothing may be pushed after it."""
        return self._finder.found

    def push(self, token_id: int) -> str:
        """The text that is certain with this token, "" while it may begin a stop string.
        `num_chars` counts what the tokens say, shown or held back."""
        if token_id in self._silent:
            return ""
        piece = self._detokenizer.push(token_id)
        self.num_chars += len(piece)
        if self._num_unchecked:
            self._num_unchecked -= 1
            return piece
        return self._finder.push(piece)

    def flush(self) -> str:
        """The rest of the text, once there are no more tokens. May still find a stop string."""
        text = self._finder.push(self._detokenizer.flush())
        return text if self.stopped else text + self._finder.flush()


class PromptPlaces:
    """Where in an echoed prompt's text each of its tokens begins, in characters."""

    def __init__(
        self, text: str, detokenizer: Detokenizer, special_name: Callable[[int], str]
    ) -> None:
        """The `detokenizer` leaves special tokens out, of which `special_name` says how they are
        written: as nothing those that are none."""
        self._text = text
        self._detokenizer = detokenizer
        self._special_name = special_name
        self._num_chars = 0

    def push(self, token_id: int) -> int:
        """That of the next token."""
        name = self._special_name(token_id)
        if name:
            # What was held back is before it.
            self._num_chars += len(self._detokenizer.flush())
        place = min(self._num_chars, len(self._text))
        if not name:
            self._num_chars += len(self._detokenizer.push(token_id))
        elif self._text.startswith(name, self._num_chars):
            # The text names it: it was not put before it.
            self._num_chars += len(name)
        return place


class StopFinder:
    """Finds the first stop string in a text that comes piece by piece.

    The first is the one whose last character comes first; of several that end there, the longest.
    So the answer is a matter of characters, and how they were cut into pieces cannot change it.
    """

    def __init__(self, stops: Sequence[str], include_stop: bool = False) -> None:
        """`stops` are not empty strings. With `include_stop` the text is cut behind the one that is
        found, not before it."""
        self._matchers = [_Matcher(stop) for stop in stops]
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._include_stop = include_stop
        # Always the longest end of the text that begins a stop string.
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that can be shown by now: none of it is part of a stop string."""
        if not self._held and self._first_characters.isdisjoint(text):
            # Nothing is matched, and nothing can begin to be: so it is for most tokens.
            return text
        pending = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            matched = max([matcher.push(character) for matcher in self._matchers])
            if matched:
                self.found = True
                self._held = ""
                return pending[: end if self._include_stop else end - matched]
        shown = len(pending) - max(matcher.num_matched for matcher in self._matchers)
        self._held = pending[shown:]
        return pending[:shown]

    def flush(self) -> str:
        """The text held back, which turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """Knuth, Morris and Pratt's search for one string: constant work for a character, on average,
    whatever the text."""

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self._borders = _borders(stop)
        self.num_matched = 0

    def push(self, character: str) -> int:
        """The string's length if it ends with this character, else 0."""
        self.num_matched = _advance(self._stop, self._borders, self.num_matched, character)
        if self.num_matched < len(self._stop):
            return 0
        return len(self._stop)


def _advance(stop: str, borders: Sequence[int], num_matched: int, character: str) -> int:
    while num_matched and stop[num_matched] != character:
        num_matched = borders[num_matched - 1]
    return num_matched + (stop[num_matched] == character)


@lru_cache(MAX_KNOWN_STOPS)
def _borders(stop: str) -> Sequence[int]:
    """For each prefix, the length of its longest proper prefix that is also its end."""
    borders = [0]
    for character in stop[1:]:
        borders.append(_advance(stop, borders, borders[-1], character))
    return borders
