from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.command_log import HEARTBEAT, MAX_BYTES, TOKEN_BYTES, CommandLog, most_bytes
from tandem.artifacts.grammar_text import MAX_SOURCE_BYTES
from tandem.core.commands import (
    Admit,
    Destination,
    PrefillBatch,
    PrefillChunk,
    PrefillSequence,
    Reserve,
)
from tandem.core.grammar import Grammar, GrammarKind
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import SequenceKey
from tandem.wire.commands import decode_command_to_wire, prefill_command_to_wire


def test_commands_of_one_turn_have_one_number() -> None:
    log = CommandLog()
    assert log.take() == HEARTBEAT
    for command in "abc":
        log.add(command)
        if command == "b":
            assert log.take() == (1, ("a", "b"))
    assert log.has_due
    assert log.take() == (2, ("c",))
    assert log.take() == HEARTBEAT


def test_what_is_not_applied_is_kept_in_order() -> None:
    log = CommandLog()
    for command in "abc":
        log.add(command)
        log.take()
    log.add("d")
    log.applied(1)
    assert [batch.number for batch in log.unapplied] == [2, 3]
    assert log.open_commands == ["b", "c", "d"]


def test_who_has_a_stream_again_catches_up_with_what_it_may_have_missed() -> None:
    log = CommandLog()
    log.add("a")
    log.take()
    assert log.applied(0), "its stream never broke"
    log.resume()
    assert not log.applied(0)
    log.add("b")
    log.take()
    assert log.applied(1), "what came since then it cannot have missed"


PARAMS = SamplingParams(max_tokens=1, seed=0)
# The widest characters, ids and numbers that there are.
FULL = replace(
    PARAMS,
    seed=2**63 - 1,
    grammar=Grammar(GrammarKind.REGEX, "\U0001f600" * (MAX_SOURCE_BYTES // 4)),
    stop_token_ids=frozenset(range(2**31 - 50, 2**31)),
    logit_bias=tuple((2**31 - number, 0.1) for number in range(1, 300)),
)


def reserve(number: int, prompt: tuple[int, ...], params: SamplingParams = PARAMS) -> Reserve:
    return Reserve(number, SequenceKey("r" * 64, number % 128, 0), prompt, 1, params)


def test_no_batch_is_more_than_a_message_can_carry() -> None:
    """Many choices of one long prompt once came as a single message, which gRPC refused, again and
    again, until all workers were lost."""
    log = CommandLog()
    prompt = (1,) * (MAX_BYTES // 3 // TOKEN_BYTES + 1)
    huge = reserve(9, prompt * 9)
    due = [*(reserve(number, prompt) for number in range(5)), Admit(1), huge, Admit(9)]
    for each in due:
        log.add(each)
    sent = []
    while (batch := log.take()) is not HEARTBEAT:
        sent.append(list(batch.commands))
    assert sent == [due[:2], due[2:4], due[4:6], [huge], due[7:]]


@pytest.mark.parametrize("params", [PARAMS, FULL])
@pytest.mark.parametrize("prompt", [(1,), (2**31 - 1,) * 1000])
def test_a_command_takes_no_more_bytes_than_is_thought(
    params: SamplingParams, prompt: tuple[int, ...]
) -> None:
    destination = Destination("host:1", bytes(16), 2**31 - 1, 0)
    sequence = PrefillSequence(SequenceKey("r" * 64, 0, 0), len(prompt), params, destination)
    batch = PrefillBatch(2**32 - 1, (PrefillChunk(2**62, 0, prompt, True, sequence),) * 3)
    for command, to_wire in (
        (reserve(2**62, prompt, params), decode_command_to_wire),
        (batch, prefill_command_to_wire),
        (Admit(2**62), decode_command_to_wire),
    ):
        assert to_wire(command).ByteSize() <= most_bytes(command)
