"""How much there is of a request's head."""

from __future__ import annotations

from gateway.http.errors import ErrorAnswer
from gateway.http.turned_away import MAX_HEADERS, TOO_MANY_HEADERS, too_large_head


class HeadMeter:
    """Counts while it comes. A header is told of when it is complete: what the parser has read and
    told nothing of counts as well."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_headers = 0
        self._num_bytes = 0
        self._num_untold_bytes = 0
        self._was_told = False

    def begin(self) -> None:
        """A request begins."""
        self._num_headers = self._num_bytes = 0

    def told(self, num_bytes: int = 0, num_headers: int = 0) -> None:
        """The parser has told of something; of the head it was so much."""
        self._was_told = True
        self._num_bytes += num_bytes
        self._num_headers += num_headers

    def read(self, num_bytes: int) -> None:
        """The parser was through with so much, and has told of what it could."""
        self._num_untold_bytes = 0 if self._was_told else self._num_untold_bytes + num_bytes
        self._was_told = False

    def refusal(self) -> ErrorAnswer | None:
        """Why it is not taken, if it is not."""
        if self._num_headers > MAX_HEADERS:
            return TOO_MANY_HEADERS
        if self._num_bytes + self._num_untold_bytes > self._max_bytes:
            return too_large_head(self._max_bytes)
        return None
