"""Where a JSON object ends, in a text that comes piece by piece."""

from __future__ import annotations

import re

# All that matters within and outside of strings.
IN_STRING = re.compile(r'["\\]')
OUTSIDE = re.compile(r'["{}]')


class ObjectScanner:
    """Counts braces, but not those in strings. Looks at each character once."""

    def __init__(self, depth: int = 0) -> None:
        """Of `depth` objects the braces that open them have gone before."""
        self._depth = depth
        self._in_string = False
        # Characters of the next piece that are escaped by the last one: 0 or 1.
        self._num_escaped = 0

    def find_end(self, piece: str) -> int | None:
        """How much of this piece belongs to the object, up to the brace that closes it; None if all
        of it does. The first piece begins with the brace that opens it, unless that has gone
        before."""
        position = self._num_escaped
        while match := (IN_STRING if self._in_string else OUTSIDE).search(piece, position):
            position = match.end()
            match match[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    position += 1
                case "{":
                    self._depth += 1
                case "}":
                    self._depth -= 1
                    if self._depth == 0:
                        return position
        self._num_escaped = max(0, position - len(piece))
        return None
