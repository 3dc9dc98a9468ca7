from gateway.command_log import HEARTBEAT, MAX_TOKENS, CommandLog
from tandem.core.commands import Admit, Reserve
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import SequenceKey


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


def test_no_batch_is_more_than_a_message_can_carry() -> None:
    """Many choices of one long prompt once came as a single message, which gRPC refused, again and
    again, until all workers were lost."""
    log = CommandLog()
    prompt, params = (1,) * (MAX_TOKENS // 3 + 1), SamplingParams(max_tokens=1, seed=0)
    reserves = [
        Reserve(number, SequenceKey("r", number, 0), prompt, params=params, headroom_tokens=1)
        for number in range(5)
    ]
    huge = Reserve(9, SequenceKey("r", 9, 0), prompt * 9, params=params, headroom_tokens=1)
    due = [*reserves, Admit(1), huge, Admit(9)]
    for each in due:
        log.add(each)
    sent = []
    while (batch := log.take()) is not HEARTBEAT:
        sent.append(list(batch.commands))
    assert sent == [due[:2], due[2:4], due[4:6], [huge], due[7:]]
