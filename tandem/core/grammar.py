"""What an answer must look like: a grammar that masks the tokens which would break it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class GrammarKind(IntEnum):
    """How a grammar is written. The numbers are the wire's."""

    JSON_SCHEMA = 1
    REGEX = 2
    LARK = 3


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar's text: a JSON schema, a regular expression, or a Lark grammar.

    Where a sequence stands in it is a function of its tokens alone, so that any worker can take up
    any sequence at any token.
    """

    kind: GrammarKind
    source: str
