"""The tokens in workers' reports."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat

from gateway.tokens import Token
from tandem.core.reports import Armed, FirstToken, SequenceSnapshot


def token_of(report: FirstToken | Armed) -> Token:
    return Token(report.position, report.token_id, report.logprobs)


def snapshot_tokens(snapshot: SequenceSnapshot) -> Iterator[Token]:
    """Those of a sequence that its controller may have missed."""
    positions = count(snapshot.position)
    return map(Token, positions, snapshot.token_ids, snapshot.logprobs or repeat(None))
