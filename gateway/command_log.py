"""What a worker is told: numbered batch by batch, and kept until it says that it was applied."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from tandem.core.commands import PrefillBatch, PrefillChunk, Reserve
from tandem.core.sampling_params import SamplingParams


class CommandBatch(NamedTuple):
    """Commands that are sent together."""

    number: int
    commands: tuple[Any, ...]


# Says nothing, and has no number of its own.
HEARTBEAT = CommandBatch(0, ())
# Bytes of a batch, unless its one command has more: gRPC takes no message of over 16 MiB.
MAX_BYTES = 4 * 2**20
# Of a token id, and of a character, at the most; of a bias, and of what else a command has.
TOKEN_BYTES = 5
CHAR_BYTES = 4
BIAS_BYTES = 16
OTHER_BYTES = 1024


class CommandLog:
    """The commands to a worker, from when it joins until it is lost."""

    def __init__(self) -> None:
        self._last_number = 0
        self._resumed_number = 0
        self._due: list[Any] = []
        self._sent: deque[CommandBatch] = deque()

    def add(self, command: Any) -> None:
        """To be sent with the next batch."""
        self._due.append(command)

    @property
    def has_due(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._due)

    def take(self) -> CommandBatch:
        """The next batch: of all that are due, as far as a message can carry them; a heartbeat if
        none is."""
        if not self._due:
            return HEARTBEAT
        num_commands = _num_fitting(self._due)
        self._last_number += 1
        batch = CommandBatch(self._last_number, tuple(self._due[:num_commands]))
        del self._due[:num_commands]
        self._sent.append(batch)
        return batch

    def applied(self, number: int) -> bool:
        """The worker has applied all batches up to this one. Whether it has caught up: with all
        that it may have missed while it had no stream."""
        while self._sent and self._sent[0].number <= number:
            self._sent.popleft()
        return number >= self._resumed_number

    def resume(self) -> None:
        """Its stream was opened again: it may have missed any batch that was not applied."""
        self._resumed_number = self._last_number

    @property
    def unapplied(self) -> list[CommandBatch]:
        """What was sent, and is not applied as far as is known."""
        return list(self._sent)

    @property
    def open_commands(self) -> list[Any]:
        """All commands that are not applied as far as is known, also those that are due."""
        return [command for batch in self._sent for command in batch.commands] + self._due


def _num_fitting(commands: Sequence[Any]) -> int:
    """How many of the first commands fit into a batch: one at the least."""
    num_bytes = accumulate(map(most_bytes, commands))
    return max(1, sum(1 for _ in takewhile(MAX_BYTES.__ge__, num_bytes)))


def most_bytes(command: Any) -> int:
    """What a command takes on the wire, at the most."""
    match command:
        case Reserve():
            return TOKEN_BYTES * command.num_tokens + _params_bytes(command.params)
        case PrefillBatch(_, chunks):
            return sum(map(_chunk_bytes, chunks), OTHER_BYTES)
    return OTHER_BYTES


def _chunk_bytes(chunk: PrefillChunk) -> int:
    params_bytes = _params_bytes(chunk.sequence.params) if chunk.sequence else OTHER_BYTES
    return TOKEN_BYTES * len(chunk.token_ids) + params_bytes


def _params_bytes(params: SamplingParams) -> int:
    grammar_bytes = CHAR_BYTES * len(params.grammar.source) if params.grammar else 0
    return (
        OTHER_BYTES
        + TOKEN_BYTES * len(params.stop_token_ids)
        + BIAS_BYTES * len(params.logit_bias)
        + grammar_bytes
    )
