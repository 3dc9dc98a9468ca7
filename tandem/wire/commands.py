"""Commands and what frames them."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.core.commands import (
    Admit,
    DecodeCommand,
    Destination,
    PrefillBatch,
    PrefillChunk,
    PrefillCommand,
    PrefillSequence,
    ReceivedDecodeCommand,
    Remove,
    Reserve,
    SetRecomputeCost,
    SetStepRule,
    Unreadable,
)
from tandem.core.errors import Mismatch
from tandem.core.plan import StepRule
from tandem.core.sequence import SequenceKey
from tandem.core.token_ids import from_bytes, to_bytes
from tandem.v1 import decode_pb2, prefill_pb2
from tandem.wire.sampling import params_from_wire, params_to_wire

# Whether the worker computes the prompt itself.
ADMIT_WHEN = {decode_pb2.ADMIT_WHEN_ARMED: False, decode_pb2.ADMIT_WHEN_COMPUTED: True}


def decode_command_to_wire(command: DecodeCommand) -> decode_pb2.DecodeCommand:
    match command:
        case Reserve():
            key = command.key
            return decode_pb2.DecodeCommand(
                reserve=decode_pb2.Reserve(
                    sequence_id=command.sequence_id,
                    request_id=key.request_id,
                    choice_index=key.choice_index,
                    attempt=key.attempt,
                    prompt_token_ids=to_bytes(command.prompt_token_ids),
                    headroom_tokens=command.headroom_tokens,
                    sampling=params_to_wire(command.params),
                    prefix_salt=command.prefix_salt,
                    generated_token_ids=to_bytes(command.generated_token_ids),
                    preemption_rank=command.preemption_rank,
                )
            )
        case Admit():
            return decode_pb2.DecodeCommand(
                admit=decode_pb2.Admit(
                    sequence_id=command.sequence_id,
                    when=decode_pb2.ADMIT_WHEN_COMPUTED
                    if command.compute
                    else decode_pb2.ADMIT_WHEN_ARMED,
                )
            )
        case Remove():
            return decode_pb2.DecodeCommand(
                remove=decode_pb2.RemoveSequence(sequence_id=command.sequence_id)
            )
        case SetRecomputeCost(token_s):
            return decode_pb2.DecodeCommand(
                set_recompute_cost=decode_pb2.SetRecomputeCost(token_s=token_s)
            )
        case SetStepRule(rule):
            return decode_pb2.DecodeCommand(
                set_step_rule=decode_pb2.SetStepRule(
                    prefill_token_budget=rule.prefill_token_budget,
                    mixed=rule.mixed,
                    idle_token_budget=rule.idle_token_budget,
                )
            )


def decode_command_from_wire(message: decode_pb2.DecodeCommand) -> ReceivedDecodeCommand:
    """Raises `Mismatch` for a command that this build does not know. One in which it does not know
    something of a sequence costs that alone."""
    match message.WhichOneof("command"):
        case "reserve":
            return _reserve_from_wire(message.reserve)
        case "admit" if message.admit.when in ADMIT_WHEN:
            return Admit(message.admit.sequence_id, compute=ADMIT_WHEN[message.admit.when])
        case "admit":
            why = f"AdmitWhen {message.admit.when} is not known here"
            return Unreadable(message.admit.sequence_id, why)
        case "remove":
            return Remove(message.remove.sequence_id)
        case "set_step_rule":
            rule = message.set_step_rule
            if rule.prefill_token_budget == 0:
                raise Mismatch("a step rule without room for a prompt token")
            return SetStepRule(
                StepRule(rule.prefill_token_budget, rule.mixed, rule.idle_token_budget)
            )
        case "set_recompute_cost":
            return SetRecomputeCost(message.set_recompute_cost.token_s)
    raise Mismatch("the controller sent a command that this worker does not know")


def _reserve_from_wire(message: decode_pb2.Reserve) -> Reserve | Unreadable:
    try:
        return Reserve(
            sequence_id=message.sequence_id,
            key=_key_from_wire(message),
            prompt_token_ids=_ids_from_wire(message.prompt_token_ids),
            headroom_tokens=message.headroom_tokens,
            params=params_from_wire(message.sampling),
            prefix_salt=message.prefix_salt,
            generated_token_ids=_ids_from_wire(message.generated_token_ids),
            preemption_rank=tuple(message.preemption_rank),
        )
    except Mismatch as error:
        return Unreadable(message.sequence_id, error.message)


def prefill_command_to_wire(command: PrefillCommand) -> prefill_pb2.PrefillCommand:
    match command:
        case PrefillBatch():
            return prefill_pb2.PrefillCommand(
                batch=prefill_pb2.PrefillBatch(
                    batch_id=command.batch_id,
                    chunks=[_chunk_to_wire(chunk) for chunk in command.chunks],
                    max_tokens=command.max_tokens,
                )
            )
        case Remove():
            return prefill_pb2.PrefillCommand(
                drop=prefill_pb2.DropSequence(sequence_id=command.sequence_id)
            )


def prefill_command_from_wire(message: prefill_pb2.PrefillCommand) -> PrefillCommand:
    """Raises `Mismatch` for a command that this build does not know."""
    match message.WhichOneof("command"):
        case "batch":
            return _batch_from_wire(message.batch)
        case "drop":
            return Remove(message.drop.sequence_id)
    raise Mismatch("the controller sent a command that this worker does not know")


def _chunk_to_wire(chunk: PrefillChunk) -> prefill_pb2.PrefillChunk:
    return prefill_pb2.PrefillChunk(
        sequence_id=chunk.sequence_id,
        start=chunk.start,
        token_ids=to_bytes(chunk.token_ids),
        last=chunk.last,
        sequence=_sequence_to_wire(chunk.sequence) if chunk.sequence else None,
        next_token_id=chunk.next_token_id,
    )


def _batch_from_wire(message: prefill_pb2.PrefillBatch) -> PrefillBatch:
    """A batch in which this build does not know something of a sequence goes on without it."""
    chunks = [_chunk_from_wire(chunk) for chunk in message.chunks]
    return PrefillBatch(
        message.batch_id,
        tuple(each for each in chunks if isinstance(each, PrefillChunk)),
        message.max_tokens,
        tuple(each for each in chunks if isinstance(each, Unreadable)),
    )


def _chunk_from_wire(message: prefill_pb2.PrefillChunk) -> PrefillChunk | Unreadable:
    try:
        token_ids = _ids_from_wire(message.token_ids)
        sequence = _sequence_from_wire(message.sequence) if message.HasField("sequence") else None
    except Mismatch as error:
        return Unreadable(message.sequence_id, error.message)
    return PrefillChunk(
        sequence_id=message.sequence_id,
        start=message.start,
        token_ids=token_ids,
        last=message.last,
        sequence=sequence,
        next_token_id=message.next_token_id if message.HasField("next_token_id") else None,
    )


def _sequence_to_wire(sequence: PrefillSequence) -> prefill_pb2.PrefillSequence:
    destination = sequence.destination
    return prefill_pb2.PrefillSequence(
        request_id=sequence.key.request_id,
        choice_index=sequence.key.choice_index,
        attempt=sequence.key.attempt,
        num_prompt_tokens=sequence.num_prompt_tokens,
        sampling=params_to_wire(sequence.params),
        num_generated_tokens=sequence.num_generated_tokens,
        destination=None
        if destination is None
        else prefill_pb2.KvDestination(
            address=destination.address,
            transfer_id=destination.transfer_id,
            epoch=destination.epoch,
            num_cached_tokens=destination.num_cached_tokens,
        ),
        prefix_salt=sequence.prefix_salt,
    )


def _sequence_from_wire(message: prefill_pb2.PrefillSequence) -> PrefillSequence:
    return PrefillSequence(
        key=_key_from_wire(message),
        num_prompt_tokens=message.num_prompt_tokens,
        params=params_from_wire(message.sampling),
        num_generated_tokens=message.num_generated_tokens,
        destination=Destination(
            address=message.destination.address,
            transfer_id=message.destination.transfer_id,
            epoch=message.destination.epoch,
            num_cached_tokens=message.destination.num_cached_tokens,
        )
        if message.HasField("destination")
        else None,
        prefix_salt=message.prefix_salt,
    )


def _ids_from_wire(data: bytes) -> Sequence[int]:
    try:
        return from_bytes(data)
    except ValueError:
        raise Mismatch("its token ids are cut off") from None


def _key_from_wire(message: decode_pb2.Reserve | prefill_pb2.PrefillSequence) -> SequenceKey:
    return SequenceKey(message.request_id, message.choice_index, message.attempt)
