"""What llguidance says of a grammar, in words for the client who sent it.

Only what is known to speak of the client's own text is passed on; its other messages speak of the
library's inside.
"""

from __future__ import annotations

import re

MAX_REASON_CHARS = 200
# More of a message is the client's own text, of which a search could take the square of its length.
MAX_HEAD_CHARS = 2_000
TOO_COMPLEX = "is too complex"

# In the first line of what the library says: what the client is told, with the first group for {}.
_REASONS = [
    (r"Unimplemented keys: (.*)", "uses keywords that are not supported: {}"),
    (r"Unknown format: (.*)", "uses an unknown format: {}"),
    (r"Invalid type: (.*)", "has an unknown type: {}"),
    (r"Unsatisfiable schema: (.*)", "can never be satisfied: {}"),
    (r"Pointer '(.*)' does not exist", "refers to what it does not define: {}"),
    (r"Resource '(.*)' is not present", "refers to another document, which is never fetched: {}"),
    (r"oneOf constraints are not", "uses oneOf for alternatives that may overlap: use anyOf"),
    (r"((?:patternProperty|oneOf|anyOf|allOf) .*)", "is not supported: {}"),
    (r"unknown special token: (\"[^\"]*\")", "names an unknown special token: {}"),
    (r"no start rule found", "has no rule named start"),
    (r"circular reference in token (\"[^\"]*\")", "defines a token by itself: {}"),
    (r"too deeply nested|recursion limit", "is nested too deeply"),
    (r"NoExtensionBias", "matches no text at all"),
    (r"too (?:large|big|many|complex)\b(?! to)|fuel exh|max is|Unable to det", TOO_COMPLEX),
    (r"failed to compile JSON schema: (.*)", "is not supported: {}"),
    (r"(\d+\(\d+\): .*)", "has an error at {}"),
]
_COMPILED = [(re.compile(pattern), told) for pattern, told in _REASONS]


def explain(message: str) -> str:
    """What is wrong with a grammar of which llguidance says `message`: "is too complex", say."""
    _, _, regex_error = message.partition("regex parse error:")
    _, found, why = regex_error.partition("\nerror: ")
    if found:
        return f"has an invalid pattern: {_shown(_first_line(why))}"
    head = _first_line(message)[:MAX_HEAD_CHARS]
    for pattern, told in _COMPILED:
        if match := pattern.search(head):
            return told.format(_shown(match[1]) if pattern.groups else "")
    return "is not valid, or not supported"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _shown(text: str) -> str:
    """One line, not too long, of printable characters."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= MAX_REASON_CHARS else f"{line[:MAX_REASON_CHARS]}..."
